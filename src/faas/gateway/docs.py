"""`/openapi.json` and `/docs`: a small page of our own that shows the document, and works without a
network."""

import base64
import hashlib
import re
from importlib import resources

from starlette.types import ASGIApp

from faas.gateway import openapi
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.replies import Headers, Reply
from faas.gateway.routing import Answer, Endpoint
from faas.gateway.settings import GatewaySettings
from faas.gateway.table import ENDPOINTS


def document(settings: GatewaySettings) -> bytes:
    """The OpenAPI document of this gateway."""
    return openapi.encode([*ENDPOINTS, *docs_endpoints(settings)], settings)


def docs_endpoints(settings: GatewaySettings) -> list[Endpoint]:
    """The two rows that tell of all others, and of themselves."""
    served: dict[str, bytes] = {}

    async def openapi_json(_: Door, exchange: Exchange) -> ASGIApp:
        if "document" not in served:
            served["document"] = document(settings)
        return Reply(served["document"])

    page = resources.files("faas.gateway").joinpath("docs.html").read_bytes()
    headers = _headers(page)

    async def docs(_: Door, exchange: Exchange) -> ASGIApp:
        return Reply(page, media_type=b"text/html; charset=utf-8", headers=headers)

    return [
        Endpoint(
            "GET",
            "/openapi.json",
            openapi_json,
            "This document",
            "system",
            (Answer(200, "OpenAPI 3.1."),),
        ),
        Endpoint(
            "GET",
            "/docs",
            docs,
            "This document as a page to read",
            "system",
            (Answer(200, "HTML.", media_type="text/html"),),
        ),
    ]


def _headers(page: bytes) -> Headers:
    """Allow the page its own inline script and style, named by hash, and its own origin; nothing
    else."""
    script = " ".join(_hashes(page, b"script")) or "'none'"
    style = " ".join(_hashes(page, b"style")) or "'none'"
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cache-control", b"no-cache"),
    ]


def _hashes(page: bytes, tag: bytes) -> list[str]:
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return [
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found
    ]
