"""The protocol's own contracts, as Tangle's record of a deployment puts them onto a node.

`FAAS_TANGLE_BROADCAST` names the record: `localtestnet-broadcast.json`, which the project publishes
in its SDK's repository. It is not kept here. The suites that ask for it hold for our `DevTangle` as
well, and a difference is a fault of `DevTangle`.
"""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from faas.chain.contract import Function
from faas.chain.rpc import Node

VARIABLE = "FAAS_TANGLE_BROADCAST"
NODE_FLAGS = ("--code-size-limit", "1000000", "--gas-limit", "100000000")
"""Its contracts are larger than a chain takes by default, and so are their deployments."""
_STAKE = Function("registerOperatorWithAsset(address,uint256)")
_APPROVE = Function("approve(address,uint256)")
_TRANSFER = Function("transfer(address,uint256)")
_BOND_TOKEN = Function("operatorBondToken()", "address")
_STAKE_MIN = Function("minOperatorStake()", "uint256")


def record() -> Path | None:
    """Where the record lies, when there is one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


@dataclass(frozen=True)
class TheirTangle:
    """What was deployed."""

    url: str
    tangle: str
    staking: str
    status_registry: str
    deployer: str

    async def stake(self, operators: list[str]) -> None:
        """Give accounts what an operator must have at stake, and put it there."""
        node = Node(self.url)
        try:
            token = _BOND_TOKEN.decode(await node.call(self.staking, _BOND_TOKEN.encode()))[0]
            least = _STAKE_MIN.decode(await node.call(self.staking, _STAKE_MIN.encode()))[0]
            for operator in operators:
                amount = 2 * least
                await _send(node, self.deployer, token, _TRANSFER.encode(operator, amount))
                await _send(node, operator, token, _APPROVE.encode(self.staking, amount))
                await _send(node, operator, self.staking, _STAKE.encode(token, amount))
        finally:
            await node.aclose()


async def deploy_theirs(url: str, path: Path) -> TheirTangle:
    """Send every transaction of the record, in its order; each has to do what it did there."""
    steps = json.loads(path.read_text())["transactions"]
    node = Node(url)
    try:
        for step in steps:
            told = step["transaction"]
            receipt = await _send(
                node, told["from"], told.get("to"), _bytes(told["input"]), told.get("value")
            )
            made = receipt.contract_address
            if step["transactionType"] == "CREATE":
                assert made is not None
                assert made.lower() == step["contractAddress"].lower()
    finally:
        await node.aclose()
    proxies = [step for step in steps if step["contractName"] == "ERC1967Proxy"]
    staking, tangle = [
        step["contractAddress"] for step in proxies if step["transactionType"] == "CREATE"
    ][:2]
    [registry] = [
        step["contractAddress"]
        for step in steps
        if step["contractName"] == "OperatorStatusRegistry" and step["transactionType"] == "CREATE"
    ]
    return TheirTangle(url, tangle, staking, registry, steps[0]["transaction"]["from"])


async def _send(node: Node, sender: str, to: str | None, data: bytes, value: str | None = None):
    fields = {"from": sender, "data": "0x" + data.hex()}
    fields |= {"to": to} if to else {}
    fields |= {"value": value} if value else {}
    digest = await node.request("eth_sendTransaction", fields)
    async with asyncio.timeout(30):
        while (receipt := await node.receipt(bytes.fromhex(digest[2:]))) is None:
            await asyncio.sleep(0.005)
    assert receipt.is_success, (to, data[:4].hex())
    return receipt


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
