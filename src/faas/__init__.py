"""FaaS platform: isolated sandboxes behind one executor. Importing this package imports nothing else."""

__version__ = "0.1.0"
