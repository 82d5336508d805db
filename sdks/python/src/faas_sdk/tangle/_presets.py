"""Where the contracts are: from arguments, `chain.json`, the environment, or a named preset.

Addresses move (test networks are deployed anew), so nothing is believed: what stands there is
looked at before the first use.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional, Union, cast

from faas_sdk._errors import InvalidConfigError, ProtocolError
from faas_sdk.tangle._abi import Manager, Tangle
from faas_sdk.tangle._contracts import NOBODY, Contracts
from faas_sdk.tangle._errors import ContractError
from faas_sdk.tangle._node import Node, NodeRefusedError, address_of, word
from faas_sdk.tangle._signer import Signer, as_signer, read_key_file

DEFAULT_URL = "ws://localhost:9944"
INTERFACE_VERSION = 1
_DEV_CHAIN_ID = 31337
_DEV_USER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
"""The second account of every development chain; everybody knows it."""


@dataclass(frozen=True)
class Place:
    """A chain, and where on it the contracts are; None is not known."""

    url: Optional[str] = None
    chain_id: Optional[int] = None
    tangle: Optional[str] = None
    manager: Optional[str] = None
    service_id: Optional[int] = None
    signer: Optional[Signer] = None

    def or_else(self, other: Place) -> Place:
        """Fill what is not known from another."""
        mine = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **mine)


PRESETS: Dict[str, Place] = {
    "dev": Place(
        chain_id=_DEV_CHAIN_ID,
        tangle="0x5FbDB2315678afecb367f032d93F642f64180aa3",
        manager="0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
        service_id=0,
    ),
    "base-sepolia": Place(chain_id=84532, tangle="0x8299d60f373f3a4a8c4878e335cb9d840e6e3730"),
    "tempo-testnet": Place(chain_id=42431, tangle="0xff137b9c879c47c28ce389e84501925438ab4cda"),
}
"""`dev` is `faas chain dev`. The manager of a public network is the one of your blueprint."""


def place_of_environment() -> Place:
    """Read the names that Tangle's own tools use."""
    env = os.environ
    service = env.get("SERVICE_ID")
    if service is not None and not service.isdigit():
        raise InvalidConfigError(f"SERVICE_ID is no number: {service!r}")
    signer = None
    if key_file := env.get("KEYSTORE_URI"):
        password_file = env.get("KEYSTORE_PASSWORD_FILE")
        password = Path(password_file).read_text("utf-8").rstrip("\n") if password_file else None
        signer = read_key_file(key_file.removeprefix("file://"), password)
    return Place(
        url=env.get("WS_RPC_URL") or env.get("HTTP_RPC_URL"),
        tangle=env.get("TANGLE_CONTRACT"),
        manager=env.get("MANAGER_CONTRACT"),
        service_id=int(service) if service else None,
        signer=signer,
    )


def place_of_file(path: Union[str, Path]) -> Place:
    """Read the `chain.json` that `faas chain dev` wrote.

    Raises:
        InvalidConfigError: it is not there, or not one.
    """
    try:
        found = cast("Dict[str, Any]", json.loads(Path(path).read_text("utf-8")))
        return Place(
            url=found["ws_url"],
            chain_id=found["chain_id"],
            tangle=found["tangle"],
            manager=found["manager"],
            service_id=found["service"],
            signer=as_signer(found["user"]["key"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise InvalidConfigError(
            f"{path} is no description of a development chain", hint="faas chain dev"
        ) from failure


def preset(name: str) -> Place:
    """Look a preset up.

    Raises:
        InvalidConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise InvalidConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


async def settle(place: Place, node: Node) -> Place:
    """Fill what is missing by looking at the chain, and look at what stands there.

    Raises:
        InvalidConfigError: something is missing, or is not what it should be.
    """
    chain_id = await node.chain_id()
    if place.chain_id not in (None, chain_id):
        raise InvalidConfigError(f"{node.url} is chain {chain_id}, not {place.chain_id}")
    if place.tangle is None and chain_id == _DEV_CHAIN_ID:
        place = place.or_else(PRESETS["dev"])
    if chain_id == _DEV_CHAIN_ID and place.signer is None:
        place = replace(place, signer=as_signer(_DEV_USER_KEY))
    if place.tangle is None:
        raise InvalidConfigError(
            f"where is Tangle on chain {chain_id}?", hint="pass tangle=, or set TANGLE_CONTRACT"
        )
    tangle = _checksum(place.tangle)
    await _require_code(node, tangle, "Tangle")
    manager = place.manager or await _find_manager(node, tangle, place.service_id)
    manager = _checksum(manager)
    await _require_code(node, manager, "the manager")
    await _require_manager(Contracts(node, tangle, manager))
    return replace(place, url=node.url, chain_id=chain_id, tangle=tangle, manager=manager)


async def _require_code(node: Node, address: str, what: str) -> None:
    if not await node.code(address):
        raise InvalidConfigError(
            f"there is no contract at {address} ({what}) on {node.url}",
            hint="is it the right chain? the old substrate chain has none: use an EVM deployment",
        )


async def _require_manager(contracts: Contracts) -> None:
    try:
        tangle = await contracts.ask_manager(Manager.TANGLE)
        version = await contracts.ask_manager(Manager.INTERFACE_VERSION)
    except (ContractError, ProtocolError) as failure:
        raise InvalidConfigError(
            f"{contracts.manager} is no manager of the FaaS blueprint"
        ) from failure
    if _checksum(tangle) != contracts.tangle:
        raise InvalidConfigError(f"the manager {contracts.manager} is of the Tangle at {tangle}")
    if version != INTERFACE_VERSION:
        raise InvalidConfigError(
            f"the manager has version {version} of its interface, this client knows"
            f" {INTERFACE_VERSION}",
            hint="use the client of the same release",
        )


async def _find_manager(node: Node, tangle: str, service_id: Optional[int]) -> str:
    hint = "pass manager=, or set MANAGER_CONTRACT"
    if service_id is None:
        raise InvalidConfigError("which manager, or which service?", hint=hint)
    service = await Contracts(node, tangle, NOBODY).service(service_id)
    topics = (Tangle.BLUEPRINT_CREATED.topic, word(service.blueprint_id))
    try:
        found = await node.logs(tangle, topics, first=0, last=(await node.head()).number)
    except NodeRefusedError as failure:
        raise InvalidConfigError(
            f"the node does not say who manages: {failure}", hint=hint
        ) from None
    if not found:
        raise InvalidConfigError(f"nobody manages blueprint {service.blueprint_id}", hint=hint)
    return str(Tangle.BLUEPRINT_CREATED.decode(found[-1].data)[0])


def _checksum(address: str) -> str:
    try:
        data = bytes.fromhex(address.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != 20:  # noqa: PLR2004  an address
        raise InvalidConfigError(f"{address!r} is no address")
    return address_of(data)
