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
from faas.chain.contract import Manager
from faas.chain.feed import Feed
from faas.chain.journal import JobState, Journal
from faas.chain.rpc import Head, NodeRefusedError, RevertedError
from faas.chain.sender import Sender
from faas.chain.worker import Worker
from faas.clock import Clock
from faas.errors import ChainUnavailableError

_BACK_OFF_SECONDS: Final = 1.0
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
    drain_seconds: float = 60.0


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
    ) -> None:
        self._journal = journal
        self._feed = feed
        self._worker = worker
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._head: Head | None = None
        self._errors = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then drain and leave."""
        again = self._journal.interrupt_all()
        _log.info("operator started", run_again=again, **self._counts())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._feed_loop()), group.create_task(self._send_loop())]
            await stop.wait()
            await self._drain()
            for task in tasks:
                task.cancel()
        await self._worker.aclose()

    def metrics(self) -> str:
        """What it did and how it stands, as Prometheus text."""
        lines: list[str] = []
        counters = {f"worker_{name}": count for name, count in asdict(self._worker.counts).items()}
        if self._sender:
            sent = asdict(self._sender.counts)
            counters |= {f"sender_{name}": count for name, count in sent.items()}
        counters |= {"reorgs": self._feed.reorgs, "errors": self._errors}
        for name, count in counters.items():
            lines += [
                f"# TYPE faas_operator_{name}_total counter",
                f"faas_operator_{name}_total {count}",
            ]
        lines.append("# TYPE faas_operator_jobs gauge")
        counts = self._journal.counts()
        lines += [f'faas_operator_jobs{{state="{s}"}} {counts.get(s, 0)}' for s in JobState]
        head = self._head.block.number if self._head else 0
        lines += ["# TYPE faas_operator_head_block gauge", f"faas_operator_head_block {head}"]
        return "\n".join(lines) + "\n"

    async def _feed_loop(self) -> None:
        while True:
            await self._tried(self._poll)
            await self._clock.sleep(self._settings.poll_seconds)

    async def _poll(self) -> None:
        self._head = await self._feed.poll()
        self._worker.start_due(self._head)
        self._worker.ran.set()

    async def _send_loop(self) -> None:
        while True:
            await self._worker.ran.wait()
            await self._clock.sleep(self._settings.linger_seconds)
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
        except (ChainUnavailableError, NodeRefusedError, RevertedError) as failure:
            self._errors += 1
            _log.warning("the chain could not be asked", why=str(failure))
            await self._clock.sleep(_BACK_OFF_SECONDS)

    async def _drain(self) -> None:
        open_jobs = self._open()
        _log.info("draining", open_jobs=open_jobs)
        await self._tried(self._say_draining)
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
