"""A development chain in use: contracts deployed, operators registered, one service active."""

import json
from dataclasses import dataclass
from pathlib import Path

from eth_abi.abi import encode
from eth_hash.auto import keccak
from web3 import AsyncWeb3
from web3.contract import AsyncContract
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD

from faas.chain.codec import JobStatus, ResultEnvelope, encode_result, inputs_hash_of

ABI = Path(__file__).parents[2] / "src" / "faas" / "chain" / "abi"
ECHO = b"\xc0\xff\xee"
NOBODY = "0x" + "0" * 40


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


async def deploy_world(w3: AsyncWeb3, *, operators: int, capacity: int = 4) -> World:
    accounts = await w3.eth.accounts
    owner, user, stranger, *rest = accounts
    tangle = await deploy(w3, owner, "DevTangle", NOBODY)
    faas = await deploy(w3, owner, "FaaSBlueprint", tangle.address, owner)
    world = World(w3, tangle, faas, owner, user, stranger, rest[:operators], 0, 0)
    await world.send(tangle.functions.createBlueprint(definition(faas.address)), owner)
    for index, operator in enumerate(world.operators):
        key = b"\x04" + keccak(bytes([index])) + keccak(bytes([index, 1]))
        register = tangle.functions.registerOperator(
            0, key, "http://127.0.0.1:9000", encode(("uint256",), (capacity,))
        )
        await world.send(register, operator)
    request = tangle.functions.requestService(0, world.operators, b"", [], 0, NOBODY, 0, 0)
    await world.send(request, user)
    for operator in world.operators:
        approval = (0, [], [0] * 4, [0] * 2, [])
        await world.send(tangle.functions.approveService(approval), operator)
    return world
