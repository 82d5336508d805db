"""How the HTTP client is set up; the same for both twins."""

from __future__ import annotations

import asyncio
import ipaddress
import platform
from typing import Any, Callable, Dict, Optional, TypeVar
from urllib.parse import urlsplit

import httpx

from faas_sdk._errors import InvalidArgumentError
from faas_sdk._models import ClientConfig
from faas_sdk._version import VERSION

T = TypeVar("T")

GIVEN_UP = (asyncio.CancelledError, KeyboardInterrupt)
"""What tells that the caller no longer wants an answer."""

KEEPALIVE_SECONDS = 30.0
"""Gateways close idle connections after 75 s, proxies after 60: never write into a closing one."""


def client_options(config: ClientConfig) -> Dict[str, Any]:
    """Return what `httpx.AsyncClient` and `httpx.Client` are made with.

    Raises:
        InvalidArgumentError: the address is not one.
    """
    address = urlsplit(config.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InvalidArgumentError(
            f"{config.base_url!r} is not the address of a gateway",
            hint="it looks like http://localhost:8080",
        )
    headers = {"User-Agent": f"faas-sdk-python/{VERSION} python/{platform.python_version()}"}
    if config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return {
        "base_url": config.base_url.rstrip("/"),
        "headers": headers,
        # A proxy from the environment cannot reach this machine's loopback.
        "trust_env": not is_loopback(address.hostname),
        # Loading certificates takes longer than an execution, and plain HTTP needs none.
        "verify": address.scheme == "https",
        "timeout": httpx.Timeout(config.timeout),
        "limits": httpx.Limits(
            max_connections=512, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE_SECONDS
        ),
    }


def is_loopback(host: str) -> bool:
    """Whether that host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def current_loop() -> Optional[asyncio.AbstractEventLoop]:
    """Return the running loop: connections belong to one, and a client may outlive it."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call something that reads the disk without holding up the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: function(*args))


def right_here(function: Callable[..., T], *args: Any) -> T:
    """The sync twin of `in_thread`."""
    return function(*args)
