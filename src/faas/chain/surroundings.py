"""What an operator needs around it, looked at before anything is begun.

`faas chain check` prints the findings; the operator refuses to start with a bad one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from eth_abi.exceptions import DecodingError, InsufficientDataBytes

from faas.chain.contract import SERVICE_ACTIVE, Contracts, Manager, Tangle, key_of
from faas.chain.rpc import RevertedError
from faas.clock import Clock
from faas.errors import ChainUnavailableError, InvalidConfigError

INTERFACE_VERSION: Final = 1
PROTOCOL: Final = "0.19"
"""The version of Tangle's ABI that this operator decodes."""
_EVENT_TOPICS: Final = 3
"""The job's number is not indexed, whatever the published ABI says."""
_EVENT_BLOCKS: Final = 1000
_SKEW_SECONDS_MAX: Final = 60
_BALANCE_MIN: Final = 10**16
"""A hundredth of a coin: some hundred results at usual fees."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    is_ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the operator was told to find."""

    chain_id: int | None = None
    operator: str | None = None
    service: int | None = None


async def look(contracts: Contracts, expected: Expected, clock: Clock) -> list[Finding]:
    """Look at everything; a node that does not answer ends the list."""
    found: list[Finding] = []
    try:
        async for finding in _all(contracts, expected, clock):
            found.append(finding)  # noqa: PERF401  what was found before a failure counts
    except ChainUnavailableError as failure:
        found.append(Finding("node", is_ok=False, detail=failure.message, hint="start the node"))
    except RevertedError as failure:
        hint = "is the address of the manager, and its version, right?"
        found.append(Finding("contract", is_ok=False, detail=f"refused: {failure}", hint=hint))
    return found


def refuse_bad(findings: list[Finding]) -> None:
    """Stop when something is wrong.

    Raises:
        InvalidConfigError: details carry every problem.
    """
    if bad := [each for each in findings if not each.is_ok]:
        raise InvalidConfigError(
            "the chain is not as the operator needs it",
            hint=bad[0].hint or "faas chain check",
            details={"problems": [f"{each.name}: {each.detail}" for each in bad]},
        )


async def _all(contracts: Contracts, expected: Expected, clock: Clock) -> AsyncIterator[Finding]:
    yield await _chain(contracts, expected)
    yield await _time(contracts, clock)
    for name, address in (("tangle", contracts.tangle), ("manager", contracts.manager)):
        code = await contracts.node.code(address)
        yield Finding(name, bool(code), f"{len(code)} bytes of code at {address}")
        if not code:
            return
    yield await _bound(contracts)
    yield await _version(contracts)
    yield await _layout(contracts)
    if expected.service is not None:
        yield await _service(contracts, expected.service)
    if expected.operator is not None:
        async for finding in _operator(contracts, expected.operator, expected.service):
            yield finding


async def _chain(contracts: Contracts, expected: Expected) -> Finding:
    chain_id = await contracts.node.chain_id()
    is_ok = expected.chain_id in (None, chain_id)
    detail = f"chain {chain_id} at {contracts.node.url}"
    return Finding("node", is_ok, detail if is_ok else f"{detail}, not {expected.chain_id}")


async def _time(contracts: Contracts, clock: Clock) -> Finding:
    # An old block is no fault: a development chain makes none without a transaction.
    ahead = (await contracts.node.head()).timestamp - int(clock.now().timestamp())
    is_ok = ahead <= _SKEW_SECONDS_MAX
    detail = "in step with the chain" if is_ok else f"{ahead} s behind the chain"
    return Finding("clock", is_ok, detail, "set the clock: deadlines are the chain's")


async def _bound(contracts: Contracts) -> Finding:
    named = await contracts.ask_manager(Manager.TANGLE)
    is_ok = named.lower() == contracts.tangle.lower()
    return Finding(
        "binding", is_ok, f"the manager serves {named}", "give the right TANGLE_CONTRACT"
    )


async def _version(contracts: Contracts) -> Finding:
    version = await contracts.ask_manager(Manager.INTERFACE_VERSION)
    is_ok = version == INTERFACE_VERSION
    return Finding("version", is_ok, f"interface {version}", "use the operator of that version")


async def _layout(contracts: Contracts) -> Finding:
    """Whether Tangle's structs and events are those we decode: another order decodes silently."""
    problems: list[str] = []
    for function, words in ((Tangle.GET_SERVICE, 13), (Tangle.GET_JOB_CALL, 7)):
        arguments = (0,) * len(function.types)
        try:
            answer = await contracts.node.call(contracts.tangle, function.encode(*arguments))
        except RevertedError:
            continue  # there is no service yet
        if len(answer) != words * 32:
            problems.append(f"{function.signature} answers {len(answer)} bytes, not {words * 32}")
    problems += await _event_problems(contracts)
    detail = "; ".join(problems) or f"as of tnt-core {PROTOCOL}"
    return Finding("layout", not problems, detail, "use the operator for that version of Tangle")


async def _event_problems(contracts: Contracts) -> list[str]:
    """Look at the newest submission, if there is one in reach, as Tangle's log and as its call."""
    last = (await contracts.node.head()).block.number
    topics = (Tangle.JOB_SUBMITTED.topic,)
    first = max(0, last - _EVENT_BLOCKS)
    entries = await contracts.node.newest_logs(contracts.tangle, topics, first=first, last=last)
    if not entries:
        return []
    newest = entries[-1]
    if len(newest.topics) != _EVENT_TOPICS:
        return [f"JobSubmitted has {len(newest.topics)} topics, not {_EVENT_TOPICS}"]
    try:
        job, caller, _inputs = Tangle.JOB_SUBMITTED.decode(newest)
    except (DecodingError, InsufficientDataBytes, OverflowError):
        return ["JobSubmitted does not decode"]
    key = key_of(newest)
    call = await contracts.ask_tangle(Tangle.GET_JOB_CALL, key.service, key.call)
    if (call[0], call[1]) != (job, caller):
        return ["getJobCall tells another job or caller than JobSubmitted"]
    return []


async def _service(contracts: Contracts, service: int) -> Finding:
    found = await contracts.ask_tangle(Tangle.GET_SERVICE, service)
    serving = await contracts.ask_tangle(Tangle.GET_SERVICE_OPERATORS, service)
    is_active = found[11] == SERVICE_ACTIVE
    detail = f"service {service} is {'active' if is_active else 'not active'}"
    return Finding("service", is_active, f"{detail}, {len(serving)} operators")


async def _operator(
    contracts: Contracts, operator: str, service: int | None
) -> AsyncIterator[Finding]:
    balance = await contracts.node.balance(operator)
    yield Finding(
        "balance",
        balance >= _BALANCE_MIN,
        f"{balance / 10**18:.4f} coins at {operator}",
        "send coins to the operator: results cost gas",
    )
    blueprint = await contracts.ask_manager(Manager.BLUEPRINT_ID)
    is_known = await contracts.ask_tangle(Tangle.IS_REGISTERED, blueprint, operator)
    hint = "faas operator --register N registers it with a capacity of N"
    yield Finding("registration", is_known, f"blueprint {blueprint}", hint)
    if is_known:
        load, capacity, *_, is_active, is_draining = await contracts.ask_manager(
            Manager.OPERATORS, operator
        )
        detail = f"{load} of {capacity} jobs{', draining' if is_draining else ''}"
        yield Finding("capacity", is_active, detail)
    if service is not None:
        serves = await contracts.ask_tangle(Tangle.IS_SERVICE_OPERATOR, service, operator)
        yield Finding("membership", serves, f"operator of service {service}")
