"""What a sandbox is, who makes one, and how one is chosen."""
