"""Memory checkpoints by CRIU, for every runtime whose sandboxes are processes of this host."""
