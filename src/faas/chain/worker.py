"""Runs the jobs of the journal, some at once, each to a stored result.

Running is at least once and what it does is done once. A command carries the call as idempotency
key, so a run that outlived us is found again; what a job makes is named by its call, so a second
run finds it made; stop, pause, resume and upload end in the same state however often they run.
Those that change one instance run one at a time, in the order of their calls: else a pause that is
run again after a crash could undo a later resume.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from faas import logs
from faas.chain.codec import JobKind, JobStatus, decode_call, resource_of
from faas.chain.contract import ChainJob
from faas.chain.group_commit import GroupCommit
from faas.chain.journal import CallKey, JobState, Journal, JournalEntry, SeenCall
from faas.chain.ports import Chain
from faas.chain.rpc import Head, NodeRefusedError
from faas.errors import (
    DeadlineExceededError,
    FaasError,
    InvalidArgumentError,
    UnavailableError,
    WrongStateError,
)

_RETRY_SECONDS: Final = 0.5
_STATELESS: Final = frozenset({JobKind.EXECUTE_FUNCTION, JobKind.EXECUTE_ADVANCED})
_IN_ORDER: Final = frozenset(
    {
        *(JobKind.CREATE_SNAPSHOT, JobKind.STOP_INSTANCE, JobKind.PAUSE_INSTANCE),
        *(JobKind.RESUME_INSTANCE, JobKind.EXPOSE_PORT, JobKind.UPLOAD_FILES),
    }
)
_LOOKED_AT_MAX: Final = 2048
"""Twice the most jobs the contract gives to one operator."""
_Lane = tuple[int, str, str]

_log = logs.bind(__name__)


class Runner(Protocol):
    """Turns a call into result bytes."""

    async def run(self, seen: SeenCall, *, seconds: float) -> bytes:
        """Run it, for at most that long.

        Raises:
            FaasError: it could not be run now, and may be later.
        """
        ...

    async def failure(self, seen: SeenCall, error: FaasError) -> bytes:
        """The result of a job that failed."""
        ...


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """How the worker works."""

    running_max: int = 64
    confirmations: int = 1
    """Blocks, its own included, that a job without state must have before it runs."""
    confirmations_stateful: int = 1
    margin_seconds: int = 30
    """Kept of the deadline for the result's way to the chain."""


@dataclass(slots=True)
class WorkCounts:
    """What the worker did."""

    ran: int = 0
    retried: int = 0
    expired: int = 0


class Worker:
    """Owns the running jobs."""

    def __init__(
        self, chain: Chain, journal: Journal, runner: Runner, settings: WorkSettings
    ) -> None:
        self._chain = chain
        self._journal = journal
        self._runner = runner
        self._settings = settings
        self._group = GroupCommit(journal)
        self._tasks: dict[CallKey, asyncio.Task[None]] = {}
        self._lanes: dict[CallKey, _Lane] = {}
        self.ran = asyncio.Event()
        """Set when a result is stored; the sender clears it."""
        self.counts = WorkCounts()

    @property
    def running(self) -> int:
        """Jobs at work now."""
        return len(self._tasks)

    def due(self, head: Head) -> list[JournalEntry]:
        """List calls that may run and do not yet, the nearest deadline first."""
        room = self._settings.running_max - len(self._tasks)
        if room <= 0:
            return []
        waiting = [
            entry
            for entry in self._journal.in_state(JobState.SEEN, limit=_LOOKED_AT_MAX)
            if entry.seen.key not in self._tasks and self._is_deep(entry, head)
        ]
        busy = set(self._lanes.values())
        first: dict[_Lane, CallKey] = {}
        for entry in waiting:
            if lane := _lane_of(entry.seen):
                first[lane] = min(entry.seen.key, first.get(lane, entry.seen.key))
        ready = [
            entry
            for entry in waiting
            if (lane := _lane_of(entry.seen)) is None
            or (lane not in busy and first[lane] == entry.seen.key)
        ]
        return ready[:room]

    def start_due(self, head: Head) -> None:
        """Start what is due."""
        for entry in self.due(head):
            key = entry.seen.key
            if lane := _lane_of(entry.seen):
                self._lanes[key] = lane
            task = asyncio.get_running_loop().create_task(self._guarded(entry, head))
            self._tasks[key] = task
            task.add_done_callback(lambda done, key=key: self._forget(key, done))

    def drop(self, keys: Iterable[CallKey]) -> None:
        """Stop work on calls that a reorg took."""
        for key in keys:
            # Popped here, so that the same call can start anew before this task is gone.
            if task := self._tasks.pop(key, None):
                self._lanes.pop(key, None)
                task.cancel()

    async def aclose(self) -> None:
        """Stop; what ran is found again by the next start."""
        self._group.flush()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, entry: JournalEntry, head: Head) -> None:
        """Bring one call from seen to a stored result, or to its end."""
        key = entry.seen.key
        job = await self._chain.job(key, head.block)
        if job.status is JobStatus.NONE:
            return  # a reorg is under way; the feed will say
        if not job.is_open or job.operator != self._chain.operator:
            self._journal.expired(key, _why_not(job), block=head.block.number)
            self.counts.expired += 1
            return
        await self._group.move(key, JobState.RUNNING)
        seconds = entry.seen.deadline - head.timestamp - self._settings.margin_seconds
        result = await self._run(entry.seen, seconds)
        await self._group.move(key, JobState.RAN, result=result)
        self.counts.ran += 1
        self.ran.set()

    async def _run(self, seen: SeenCall, seconds: float) -> bytes:
        if seconds <= 0:
            late = DeadlineExceededError("the deadline was past before the job could run")
            return await self._runner.failure(seen, late)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._runner.run(seen, seconds=seconds)
                    except FaasError as failure:
                        _log.warning("a job is tried again", call=seen.key.call, why=str(failure))
                        self.counts.retried += 1
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            return await self._runner.failure(seen, DeadlineExceededError())

    async def _guarded(self, entry: JournalEntry, head: Head) -> None:
        try:
            await self.answer(entry, head)
        except (UnavailableError, NodeRefusedError):
            _log.warning("a job waits for the node or the signer", call=entry.seen.key.call)
            self._give_back(entry.seen.key)
        except WrongStateError as failure:
            _log.info("a job was taken away while it ran", why=str(failure))
        except Exception as failure:  # noqa: BLE001  one job must not stop the others; it stays in the journal
            call = entry.seen.key.call
            _log.error("a job could not be worked on", call=call, why=repr(failure))
            self._give_back(entry.seen.key)

    def _forget(self, key: CallKey, done: "asyncio.Task[None]") -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key]
            self._lanes.pop(key, None)

    def _give_back(self, key: CallKey) -> None:
        entry = self._journal.get(key)
        if entry and entry.state is JobState.RUNNING:
            self._journal.interrupted(key)

    def _is_deep(self, entry: JournalEntry, head: Head) -> bool:
        is_stateless = entry.seen.job in _STATELESS
        needed = (
            self._settings.confirmations if is_stateless else self._settings.confirmations_stateful
        )
        return head.block.number - entry.seen.block.number + 1 >= needed


def _lane_of(seen: SeenCall) -> _Lane | None:
    if seen.job not in _IN_ORDER:
        return None
    try:
        resource = resource_of(decode_call(seen.job, seen.inputs))
    except InvalidArgumentError:
        return None
    return (seen.key.service, seen.caller, resource)


def _why_not(job: ChainJob) -> str:
    if job.is_over:
        return f"it is over: {job.status.name.lower()}"
    return f"it was passed on to {job.operator}"
