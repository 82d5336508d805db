"""Ports of instances: expose, list, close. What comes in by them is `port_door`'s."""

import re

import msgspec

from faas.errors import NotFoundError
from faas.executor.instance_ports import TOKEN_SECONDS_DEFAULT, Exposure
from faas.gateway.door import Door
from faas.gateway.exchange import Exchange
from faas.gateway.instances import encode, reference
from faas.gateway.port_wire import ExposedView, ExposeRequest, OperatorExposeRequest, PortView
from faas.gateway.replies import NoContent, Reply
from faas.gateway.strict import decode

_PORT = re.compile("[1-9][0-9]{0,4}")


async def expose(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/instances/{id}/ports`"""
    exchange.require_json()
    exchange.query()
    asked = decode(await exchange.body(), ExposeRequest)
    made = await door.executor.instances.ports.expose(
        reference(exchange),
        exchange.principal,
        asked.port,
        protocol=asked.protocol,
        subdomain=asked.subdomain,
        token_seconds=asked.token_seconds or TOKEN_SECONDS_DEFAULT,
    )
    shown = msgspec.structs.replace(
        _view(made), open_url=made.open_url, token=made.token, expires_at=made.expires_at
    )
    return Reply(encode(shown), headers=[(b"cache-control", b"no-store")])


async def expose_for_operator(door: Door, exchange: Exchange) -> Reply:
    """`POST /api/v1/ports/expose`"""
    exchange.require_json()
    exchange.query()
    asked = decode(await exchange.body(), OperatorExposeRequest)
    made = await door.executor.instances.ports.expose(
        asked.instance_id,
        exchange.principal,
        asked.internal_port,
        protocol=asked.protocol,
        subdomain=asked.subdomain,
    )
    return Reply(encode(ExposedView(made.open_url)), headers=[(b"cache-control", b"no-store")])


async def list_ports(door: Door, exchange: Exchange) -> Reply:
    """`GET /api/v1/instances/{id}/ports`"""
    exchange.query()
    found = door.executor.instances.ports.list(reference(exchange), exchange.principal)
    return Reply(encode([_view(one) for one in found]))


async def close(door: Door, exchange: Exchange) -> NoContent:
    """`DELETE /api/v1/instances/{id}/ports/{port}`"""
    exchange.query()
    text = exchange.path_parameter("port")
    if not _PORT.fullmatch(text):
        raise NotFoundError("there is no such port")
    await door.executor.instances.ports.close(reference(exchange), exchange.principal, int(text))
    return NoContent()


def _view(exposure: Exposure) -> PortView:
    return PortView(
        port=exposure.port,
        url=exposure.url,
        path=f"/api/v1/instances/{exposure.instance_id}/ports/{exposure.port}/proxy/",
        exposed_at=exposure.exposed_at,
    )
