"""The embedded runtime: sandboxes out of this host's own namespaces."""
