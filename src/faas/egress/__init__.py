"""The network `egress`: public addresses only; never the host, private ranges or cloud metadata."""

from faas.egress.network import EgressNetwork

__all__ = ["EgressNetwork"]
