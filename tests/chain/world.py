"""A development chain in use: contracts deployed, operators registered, one service active."""

import json
from dataclasses import dataclass
from pathlib import Path

from eth_abi.abi import encode
from eth_hash.auto import keccak
from tests.chain.their_tangle import TheirTangle
from web3 import AsyncWeb3
from web3.contract import AsyncContract
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD

from faas.chain.codec import JobStatus, ResultEnvelope, encode_result, inputs_hash_of
from faas.chain.contract import Function
from faas.chain.dev import CHAIN_ID, dev_account
from faas.chain.rpc import Node
from faas.chain.wallet import LocalWallet

ABI = Path(__file__).parents[2] / "src" / "faas" / "chain" / "abi"
ECHO = b"\xc0\xff\xee"
NOBODY = "0x" + "0" * 40
_LIMIT_HOOKS = Function("setManagerHookGasLimit(uint256)")
_IS_ACTIVE = Function("isOperatorActive(address)", "bool")


def artifact(name: str) -> dict:
    return json.loads((ABI / f"{name}.json").read_text())


def error_of(raised: ContractCustomError) -> str:
    """The selector of a custom error, as `0x` and 8 digits."""
    return str(raised.data)[:10]


def selector(signature: str) -> str:
    return "0x" + keccak(signature.encode())[:4].hex()


def result(status: JobStatus = JobStatus.DONE, *, inputs: bytes = ECHO, output: bytes = b"out"):
    return encode_result(ResultEnvelope(status, inputs_hash_of(inputs), bytes(32), output))


def definition(manager: str) -> tuple:
    """The blueprint of the twelve jobs: no schemas, so payloads are plain ABI."""
    config = (1, 0, 1, 16, 0, 0, 0)
    job = ("", "", "", b"", b"")
    binary = (0, 0, "faas-blueprint", keccak(b"binary"))
    source = (0, ("", "", ""), (0, 0, "", ""), (0, "", ""), ("", "", ""), [binary])
    return (
        *("faas", keccak(b"faas"), manager, 0, True, config, ("",) * 9, [job] * 12),
        *(b"", b"", [source], [0]),
    )


@dataclass
class World:
    w3: AsyncWeb3
    tangle: AsyncContract
    faas: AsyncContract
    owner: str
    user: str
    stranger: str
    operators: list[str]
    blueprint: int
    service: int

    async def send(self, call, sender: str, **fields):
        """Send a call and return its receipt; a revert raises before anything is sent."""
        digest = await call.transact({"from": sender, **fields})
        receipt = await self.w3.eth.wait_for_transaction_receipt(digest)
        assert receipt["status"] == 1
        return receipt

    async def submit(self, inputs: bytes = ECHO, *, job: int = 0):
        """Submit a job as the user; return its call id and the receipt."""
        receipt = await self.send(
            self.tangle.functions.submitJob(self.service, job, inputs), self.user
        )
        [submitted] = self.events(self.tangle, "JobSubmitted", receipt)
        return submitted["args"]["callId"], receipt

    async def answer(self, operator: str, call: int, data: bytes, **fields):
        return await self.send(
            self.tangle.functions.submitResult(self.service, call, data), operator, **fields
        )

    async def assignee(self, call: int) -> str:
        return await self.faas.functions.getAssignedOperator(self.service, call).call()

    async def status(self, call: int) -> JobStatus:
        job = await self.faas.functions.getJob(self.service, call).call()
        return JobStatus(job[4])

    async def is_completed(self, call: int) -> bool:
        return (await self.tangle.functions.getJobCall(self.service, call).call())[4]

    async def load(self, operator: str) -> int:
        return (await self.faas.functions.operators(operator).call())[0]

    async def rival(self, operator: str) -> str:
        return next(other for other in self.operators if other != operator)

    async def past_deadline(self, call: int) -> None:
        job = await self.faas.functions.getJob(self.service, call).call()
        await self.w3.provider.make_request("evm_setNextBlockTimestamp", [job[1] + 1])
        await self.w3.provider.make_request("evm_mine", [])

    def events(self, contract: AsyncContract, name: str, receipt) -> list:
        """The contract's events of that name in a receipt, in order."""
        found = contract.events[name]().process_receipt(receipt, errors=DISCARD)
        return [event for event in found if event["address"] == contract.address]


async def deploy(w3: AsyncWeb3, sender: str, name: str, *arguments) -> AsyncContract:
    made = artifact(name)
    factory = w3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
    digest = await factory.constructor(*arguments).transact({"from": sender})
    receipt = await w3.eth.wait_for_transaction_receipt(digest)
    return w3.eth.contract(address=receipt["contractAddress"], abi=made["abi"])


@dataclass(frozen=True)
class Ground:
    """A node, and whose Tangle is on it: ours for each world anew, or theirs, once."""

    w3: AsyncWeb3
    theirs: TheirTangle | None = None

    async def limit_hooks(self, world: "World", gas: int) -> None:
        """Set what a manager's hook may use, as the admin of Tangle may."""
        if self.theirs is None:
            await world.send(world.tangle.functions.setHookGasLimit(gas), world.owner)
            return
        digest = await self.w3.eth.send_transaction(
            {"from": world.owner, "to": world.tangle.address, "data": _LIMIT_HOOKS.encode(gas)}
        )
        receipt = await self.w3.eth.wait_for_transaction_receipt(digest)
        assert receipt["status"] == 1


async def deploy_world(ground: Ground, *, operators: int, capacity: int = 4) -> World:
    w3 = ground.w3
    # The record of their deployment uses the first six.
    first = 6 if ground.theirs else 3
    everybody = await w3.eth.accounts
    owner, user, stranger = everybody[:3]
    serving = everybody[first : first + operators]
    if ground.theirs:
        tangle = w3.eth.contract(
            address=w3.to_checksum_address(ground.theirs.tangle), abi=artifact("DevTangle")["abi"]
        )
        await _stake_once(ground.theirs, serving)
    else:
        tangle = await deploy(w3, owner, "DevTangle", NOBODY)
    faas = await deploy(w3, owner, "FaaSBlueprint", tangle.address, owner)
    world = World(w3, tangle, faas, owner, user, stranger, serving, 0, 0)
    made = await world.send(tangle.functions.createBlueprint(definition(faas.address)), owner)
    [created] = world.events(tangle, "BlueprintCreated", made)
    world.blueprint = created["args"]["blueprintId"]
    for index, operator in enumerate(serving, first):
        wallet = LocalWallet(bytes.fromhex(dev_account(index).key[2:]), chain_id=CHAIN_ID)
        proof = wallet.key_proof(tangle=tangle.address, blueprint=world.blueprint)
        register = tangle.functions.registerOperator(
            world.blueprint, proof, "http://127.0.0.1:9000", encode(("uint256",), (capacity,))
        )
        await world.send(register, operator)
    request = tangle.functions.requestService(world.blueprint, serving, b"", [], 0, NOBODY, 0, 0)
    [asked] = world.events(tangle, "ServiceRequested", await world.send(request, user))
    for operator in serving:
        approval = (asked["args"]["requestId"], [], [0] * 4, [0] * 2, [])
        last = await world.send(tangle.functions.approveService(approval), operator)
    [activated] = world.events(tangle, "ServiceActivated", last)
    world.service = activated["args"]["serviceId"]
    return world


async def _stake_once(theirs: TheirTangle, operators: list[str]) -> None:
    node = Node(theirs.url)
    try:
        answers = [
            await node.call(theirs.staking, _IS_ACTIVE.encode(operator)) for operator in operators
        ]
    finally:
        await node.aclose()
    is_active = [_IS_ACTIVE.decode(answer)[0] for answer in answers]
    await theirs.stake(
        [each for each, is_staked in zip(operators, is_active, strict=True) if not is_staked]
    )
