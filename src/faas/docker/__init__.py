"""The Docker runtime: sandboxes are containers of a real Docker Engine with our agent as PID 1."""
