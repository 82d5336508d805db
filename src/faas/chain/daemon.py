"""The operator: feed, work and send, three tasks round one journal.

The feed reads what was assigned, the worker runs it, the sender brings results to the chain. They
share nothing but the journal and two bells. A node that does not answer stops nobody: each task
tries again. On SIGTERM the operator says on the chain that it takes no more, ends what it has,
and leaves; what does not end in time is taken up by the next start.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from faas import logs
from faas.chain import gauges
from faas.chain.approval import Approver
from faas.chain.contract import Manager
from faas.chain.feed import Feed
from faas.chain.heads import NewHeads
from faas.chain.heartbeat import Heartbeat
from faas.chain.journal import JobState, Journal
from faas.chain.quotes import QuoteDesk
from faas.chain.rpc import Head, NodeRefusedError, RevertedError
from faas.chain.sender import Sender
from faas.chain.worker import Worker
from faas.clock import Clock
from faas.errors import UnavailableError

_BACK_OFF_SECONDS: Final = 1.0
JOBS_KEPT_SECONDS: Final = 7 * 86_400
"""Of jobs that ended, from their deadline: far past any reorg, and long enough to look into."""
_AGAIN_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 60.0
"""A node that is not heard of for so long is a problem somebody should look at."""
_OPEN: Final = (JobState.SEEN, JobState.RUNNING, JobState.RAN, JobState.SENT)

_log = logs.bind(__name__)


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """The pace of the operator."""

    manager: str
    capacity: int
    poll_seconds: float = 0.25
    linger_seconds: float = 0.02
    """After a result is there, wait this long for more of them: one transaction carries many."""
    linger_seconds_crowd: float = 0.1
    """The same while other jobs run: at 60 jobs a second six results share a transaction."""
    drain_seconds: float = 60.0
    poll_seconds_connected: float = 2.0
    """While a WebSocket tells of new blocks; what it misses is found this much later."""
    approval_seconds: float = 3.0
    upkeep_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What an operator may do beside its jobs."""

    heads: NewHeads | None = None
    heartbeat: Heartbeat | None = None
    approver: Approver | None = None
    desk: QuoteDesk | None = None
    balance: Callable[[], Awaitable[int]] | None = None


class Operator:
    """The three tasks. Without a sender it is dry: it runs jobs and hands nothing in."""

    def __init__(
        self,
        journal: Journal,
        feed: Feed,
        worker: Worker,
        sender: Sender | None,
        *,
        settings: DaemonSettings,
        clock: Clock,
        beside: Beside | None = None,
    ) -> None:
        self._journal = journal
        self._feed = feed
        self._worker = worker
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._beside = beside or Beside()
        self._head: Head | None = None
        self._caught_up_ns: int | None = None
        self._is_draining = False
        self._balance: int | None = None
        self._errors = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then drain and leave."""
        again = self._journal.interrupt_all()
        _log.info("operator started", run_again=again, **self._counts())
        async with asyncio.TaskGroup() as group:
            beside = [self._upkeep_loop]
            beside += [self._approval_loop] if self._beside.approver else []
            beside += [self._beside.heartbeat.run] if self._beside.heartbeat else []
            beside += [self._beside.heads.run] if self._beside.heads else []
            loops = [self._feed_loop(), self._send_loop(), *map(self._kept, beside)]
            tasks = [group.create_task(loop) for loop in loops]
            await stop.wait()
            await self._drain()
            for task in tasks:
                task.cancel()
        await self._worker.aclose()

    def metrics(self) -> str:
        """What it did and how it stands, as Prometheus text."""
        counts = self._journal.counts()
        return gauges.text(self._values(), {str(s): counts.get(s, 0) for s in JobState})

    def problem(self) -> str | None:
        """What is wrong now, in a sentence; None when all is well."""
        age = self._head_age()
        if age is None or age > _SILENCE_SECONDS:
            return "the chain node has not been heard of"
        return None

    def _values(self) -> dict[str, float]:
        values: dict[str, float] = {
            f"worker_{name}": count for name, count in asdict(self._worker.counts).items()
        }
        if self._sender:
            values |= {f"sender_{n}": c for n, c in asdict(self._sender.counts).items()}
            values["chores"] = self._sender.chores
        values |= {
            "reorgs": self._feed.reorgs,
            "lags": self._feed.lags,
            "errors": self._errors,
            "running": self._worker.running,
            "capacity": self._settings.capacity,
            "draining": int(self._is_draining),
            "dry": int(self._sender is None),
            "head_block": self._head.block.number if self._head else 0,
        }
        return values | self._values_beside() | self._values_known()

    def _values_beside(self) -> dict[str, float]:
        values: dict[str, float] = {}
        if heads := self._beside.heads:
            values |= {"socket_drops": heads.drops, "socket_connected": int(heads.is_connected)}
        if beat := self._beside.heartbeat:
            values |= {"heartbeats_sent": beat.sent, "heartbeats_failed": beat.failed}
        if desk := self._beside.desk:
            values |= {"quotes_given": desk.given, "quotes_refused": desk.refused}
            values["quotes_reserved"] = desk.reserved
        if approver := self._beside.approver:
            values["services_approved"] = approver.approved
        return values

    def _values_known(self) -> dict[str, float]:
        values: dict[str, float] = {}
        if (age := self._head_age()) is not None:
            values["head_age_seconds"] = age
        if self._balance is not None:
            values["balance_ether"] = self._balance / 10**18
        if (nearest := self._journal.nearest_deadline()) is not None and self._head:
            values["oldest_open_seconds"] = nearest - self._head.timestamp
        return values

    def _head_age(self) -> float | None:
        if self._caught_up_ns is None:
            return None
        return (self._clock.monotonic_ns() - self._caught_up_ns) / 1e9

    async def _feed_loop(self) -> None:
        while True:
            await self._tried(self._poll)
            heads = self._beside.heads
            if heads is None or not heads.is_connected:
                await self._clock.sleep(self._settings.poll_seconds)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds_connected):
                    await heads.bell.wait()
            # Where blocks come by the hundred a second, one look serves many.
            await self._clock.sleep(self._settings.linger_seconds)
            heads.bell.clear()

    async def _approval_loop(self) -> None:
        while self._beside.approver and not self._is_draining:
            await self._tried(self._beside.approver.look)
            await self._clock.sleep(self._settings.approval_seconds)

    async def _upkeep_loop(self) -> None:
        while True:
            await self._tried(self._keep_up)
            await self._clock.sleep(self._settings.upkeep_seconds)

    async def _keep_up(self) -> None:
        if self._head:
            self._journal.trim(deadline_before=self._head.timestamp - JOBS_KEPT_SECONDS)
        if self._beside.balance:
            self._balance = await self._beside.balance()

    async def _poll(self) -> None:
        self._head = await self._feed.poll()
        self._caught_up_ns = self._clock.monotonic_ns()
        self._worker.start_due(self._head)
        self._worker.ran.set()

    async def _send_loop(self) -> None:
        while True:
            await self._worker.ran.wait()
            is_crowd = self._worker.running > 0
            settings = self._settings
            await self._clock.sleep(
                settings.linger_seconds_crowd if is_crowd else settings.linger_seconds
            )
            self._worker.ran.clear()
            await self._tried(self._send)

    async def _send(self) -> None:
        if self._head is None:
            return
        self._worker.start_due(self._head)
        if self._sender:
            await self._sender.tick()

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (UnavailableError, NodeRefusedError, RevertedError) as failure:
            self._errors += 1
            _log.warning("the chain or the signer could not be asked", why=str(failure))
            await self._clock.sleep(_BACK_OFF_SECONDS)

    async def _kept(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run what is beside the jobs: whatever happens to it, the jobs go on."""
        while True:
            try:
                await loop()
            except Exception as failure:  # noqa: BLE001  the jobs are worth more than it
                self._errors += 1
                _log.error("something beside the jobs failed and is begun again", why=repr(failure))
                await self._clock.sleep(_AGAIN_SECONDS)
            else:
                return

    async def _drain(self) -> None:
        self._is_draining = True
        if self._beside.desk:
            self._beside.desk.is_open = False
        open_jobs = self._open()
        _log.info("draining", open_jobs=open_jobs)
        await self._tried(self._say_draining)
        if self._beside.heartbeat:
            await self._tried(self._beside.heartbeat.leave)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                while self._open() or (self._sender and self._sender.chores):
                    await self._clock.sleep(self._settings.poll_seconds)
        _log.info("drained", left=self._open())

    async def _say_draining(self) -> None:
        if self._sender and self._head:
            data = Manager.SET_CAPACITY.encode(self._settings.capacity, True)  # noqa: FBT003  ABI
            await self._sender.do(self._settings.manager, data, self._head)

    def _open(self) -> int:
        counts = self._journal.counts()
        # Dry, a stored result is as far as a job comes.
        states = _OPEN if self._sender else _OPEN[:2]
        return sum(counts.get(state, 0) for state in states)

    def _counts(self) -> dict[str, int]:
        return {str(state): count for state, count in self._journal.counts().items()}
