"""The HTTP door: Starlette routes, msgspec schemas, problems as JSON."""

from faas.gateway.app import build_app
from faas.gateway.auth import ApiKey
from faas.gateway.settings import GatewaySettings

__all__ = ["ApiKey", "GatewaySettings", "build_app"]
