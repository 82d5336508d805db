"""A development chain in one step: anvil, our contracts, a service, operators with coins.

Everything is for loopback and play: the keys are anvil's, which everybody knows.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from eth_abi.abi import encode
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.contract import Manager, Tangle
from faas.chain.rpc import Node, Receipt
from faas.chain.wallet import LocalWallet
from faas.errors import ChainUnavailableError, InvalidConfigError, UnavailableError

CHAIN_ID: Final = 31337
NOBODY: Final = "0x" + "0" * 40
_MNEMONIC: Final = "test " * 11 + "junk"
_ACCOUNTS: Final = 20
_FIRST_OPERATOR: Final = 3
"""Accounts 0, 1 and 2 are the owner, the user and a stranger."""
_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 10
_DEFINITION: Final = (
    "createBlueprint((string,bytes32,address,uint32,bool,"
    "(uint8,uint8,uint32,uint32,uint256,uint64,uint256),"
    "(string,string,string,string,string,string,string,string,string),"
    "(string,string,string,bytes,bytes)[],bytes,bytes,"
    "(uint8,(string,string,string),(uint8,uint8,string,string),(uint8,string,string),"
    "(string,string,string),(uint8,uint8,string,bytes32)[])[],uint8[]))"
)
_APPROVAL: Final[tuple[object, ...]] = (0, (), (0,) * 4, (0,) * 2, ())


@dataclass(frozen=True, slots=True)
class DevAccount:
    """An account with coins, and its key that everybody knows."""

    address: str
    key: str


@dataclass(frozen=True, slots=True)
class DevChain:
    """What was deployed, and who is who."""

    http_url: str
    ws_url: str
    chain_id: int
    tangle: str
    manager: str
    status_registry: str
    blueprint: int
    service: int
    owner: DevAccount
    user: DevAccount
    operators: tuple[DevAccount, ...]

    def write(self, directory: Path) -> Path:
        """Write `chain.json`, and a key file for the user and each operator."""
        directory.mkdir(parents=True, exist_ok=True)
        people = {"user": self.user}
        people |= {f"operator-{index}": each for index, each in enumerate(self.operators)}
        for name, account in people.items():
            _write_private(directory / f"{name}.key", account.key + "\n")
        path = directory / "chain.json"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path


def read_dev_chain(path: Path) -> DevChain:
    """Read `chain.json`.

    Raises:
        InvalidConfigError: it is not there, or not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=DevChain)
    except (OSError, msgspec.MsgspecError) as failure:
        raise InvalidConfigError(
            f"{path} is no description of a development chain", hint="faas chain dev"
        ) from failure


def find_anvil(named: str | None = None) -> Path:
    """Find the node's program: as named, on the path, or from this repository's npm packages.

    Raises:
        UnavailableError: it is nowhere.
    """
    if named:
        return Path(named)
    if found := shutil.which("anvil"):
        return Path(found)
    packages = Path(__file__).parents[3] / "contracts" / "node_modules" / "@foundry-rs"
    if beside := sorted(packages.glob("anvil-*/bin/anvil")):
        return beside[0]
    raise UnavailableError(
        "anvil is not installed",
        hint="scripts/contracts.sh setup, or npm install @foundry-rs/anvil",
    )


@contextlib.asynccontextmanager
async def run_anvil(
    program: Path, *, port: int = 9944, block_seconds: float = 0, log: Path | None = None
) -> AsyncGenerator[str]:
    """Run a node on loopback; yields its HTTP address. Port 0 takes a free one.

    Raises:
        UnavailableError: it does not come up.
    """
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--chain-id", str(CHAIN_ID)]
    arguments += ["--accounts", str(_ACCOUNTS), "--mnemonic", _MNEMONIC]
    if block_seconds:
        arguments += ["--block-time", str(block_seconds), "--mixed-mining"]
    with contextlib.ExitStack() as stack:
        # stdout is read for the address and then to the end, so that the node never blocks on it.
        process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.defpath, "HOME": "/nonexistent"},
            start_new_session=True,
        )
        output = stack.enter_context(log.open("ab")) if log else None
        stdout = cast("asyncio.StreamReader", process.stdout)
        lines: list[bytes] = []
        try:
            address = await _listening(stdout, lines)
        except (TimeoutError, EOFError) as failure:
            process.kill()
            await process.wait()
            said = b"".join(lines)[-400:].decode(errors="replace")
            raise UnavailableError(f"anvil did not start: {said.strip()}") from failure
        draining = asyncio.ensure_future(_drain(stdout, output))
        try:
            yield f"http://{address}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            await draining


async def deploy(
    url: str, *, operators: int = 1, capacity: int = 64, ws_url: str | None = None
) -> DevChain:
    """Deploy everything, register the operators and open one service of them all."""
    node = Node(url)
    try:
        if await node.chain_id() != CHAIN_ID:
            raise InvalidConfigError(f"{url} is no development chain of ours")
        return await _Deployment(node).run(
            operators, capacity, ws_url or url.replace("http", "ws", 1)
        )
    finally:
        await node.aclose()


def dev_account(index: int) -> DevAccount:
    """One of anvil's accounts."""
    from eth_account import Account  # noqa: PLC0415  slow to import

    account = cast("Any", Account)
    account.enable_unaudited_hdwallet_features()
    made = account.from_mnemonic(_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
    return DevAccount(to_checksum_address(made.address), "0x" + bytes(made.key).hex())


class _Deployment:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self, operators: int, capacity: int, ws_url: str) -> DevChain:
        owner, user = dev_account(0), dev_account(1)
        serving = tuple(dev_account(_FIRST_OPERATOR + index) for index in range(operators))
        tangle = await self._create("DevTangle", owner, ("address",), NOBODY)
        manager = await self._create(
            "FaaSBlueprint", owner, ("address", "address"), tangle, owner.address
        )
        registry = await self._create("DevStatusRegistry", owner, ())
        await self._send(_blueprint_call(manager), tangle, owner)
        await self._send(Manager.SET_STATUS_REGISTRY.encode(registry), manager, owner)
        for operator in serving:
            await self._send(_register_call(operator, tangle, capacity), tangle, operator)
        names = [operator.address for operator in serving]
        request = Tangle.REQUEST_SERVICE.encode(0, names, b"", [], 0, NOBODY, 0, 0)
        await self._send(request, tangle, user)
        for operator in serving:
            await self._send(Tangle.APPROVE_SERVICE.encode(_APPROVAL), tangle, operator)
        return DevChain(
            http_url=self._node.url,
            ws_url=ws_url,
            chain_id=CHAIN_ID,
            tangle=tangle,
            manager=manager,
            status_registry=registry,
            blueprint=0,
            service=0,
            owner=owner,
            user=user,
            operators=serving,
        )

    async def _create(
        self, name: str, sender: DevAccount, types: tuple[str, ...], *arguments: object
    ) -> str:
        text = (resources.files("faas.chain") / "abi" / f"{name}.json").read_text("utf-8")
        code = bytes.fromhex(json.loads(text)["bytecode"].removeprefix("0x"))
        receipt = await self._send(code + encode(types, arguments), None, sender)
        return to_checksum_address(cast("str", receipt.contract_address))

    async def _send(self, data: bytes, to: str | None, sender: DevAccount) -> Receipt:
        fields = {"from": sender.address, "data": "0x" + data.hex()} | ({"to": to} if to else {})
        digest = bytes.fromhex((await self._node.request("eth_sendTransaction", fields))[2:])
        for _ in range(600):
            if receipt := await self._node.receipt(digest):
                if not receipt.is_success:
                    break
                return receipt
            await asyncio.sleep(0.05)
        raise ChainUnavailableError("a transaction of the deployment did not succeed")


def _blueprint_call(manager: str) -> bytes:
    config = (1, 0, 1, 16, 0, 0, 0)
    job = ("", "", "", b"", b"")
    binary = (0, 0, "faas-blueprint", keccak(b"faas-blueprint"))
    source = (0, ("", "", ""), (0, 0, "", ""), (0, "", ""), ("", "", ""), [binary])
    definition = (
        *("faas", keccak(b"faas"), manager, 0, True, config, ("",) * 9, [job] * 12),
        *(b"", b"", [source], [0]),
    )
    types = (_DEFINITION[_DEFINITION.index("(") + 1 : -1],)
    return keccak(_DEFINITION.encode())[:4] + encode(types, (definition,))


def _register_call(operator: DevAccount, tangle: str, capacity: int) -> bytes:
    secret = bytes.fromhex(operator.key[2:])
    proof = LocalWallet(secret, chain_id=CHAIN_ID).key_proof(tangle=tangle, blueprint=0)
    inputs = encode(("uint256",), (capacity,))
    return Tangle.REGISTER.encode(0, proof, "http://127.0.0.1", inputs)


async def _listening(stdout: asyncio.StreamReader, lines: list[bytes]) -> str:
    async with asyncio.timeout(_START_SECONDS):
        while line := await stdout.readline():
            lines.append(line)
            if line.startswith(b"Listening on "):
                return line.split()[-1].decode()
    raise EOFError


async def _drain(stdout: asyncio.StreamReader, output: Any) -> None:
    while block := await stdout.read(1 << 16):
        if output:
            output.write(block)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
