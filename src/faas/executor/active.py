"""An execution that has not ended: its state in memory, and those who wait for a change of it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from faas.clock import Deadline
from faas.errors import FaasError, UnavailableError
from faas.executor.admission import Ticket
from faas.executor.images import ImageWatch
from faas.executor.records import Beginning
from faas.images import ImageOrder
from faas.model import ExecutionRecord, ExecutionState, Mode
from faas.sandbox.choice import Choice
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import OutputFiles, Process, RootFilesystem
from faas.tenancy import Tenant

NO_ROOT = RootFilesystem(digest="", path=None)
"""Of an execution that is taken up again: its sandbox has one already."""

TAKEN_UP = "chosen before a restart of the gateway"
"""Why an execution runs where it runs that a former gateway placed."""


@dataclass(slots=True, eq=False)
class Active:
    """One execution under way."""

    entry: Beginning
    tenant: Tenant
    output: OutputFiles
    ticket: Ticket
    submitted_ns: int
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    choice: Choice | None = None
    """The runtime it was given; None when it is taken up again or cannot be run."""
    root: RootFilesystem = NO_ROOT
    state: ExecutionState = ExecutionState.QUEUED
    started_at: datetime | None = None
    sandbox: GuardedSandbox | None = None
    process: Process | None = None
    task: asyncio.Task[None] | None = None
    doom: FaasError | None = None
    """Set by recovery: it cannot be run, and this is why."""
    is_begun: bool = False
    is_finishing: bool = False
    """The end is on its way into the ledger; nothing can change it any more."""
    is_from_pool: bool = False
    is_cancelled: bool = False
    is_abandoned: bool = False
    """The gateway goes; the command runs on and the next gateway takes it up."""
    was_started: bool = False
    """The command may have done something; before that, failing costs nothing."""
    overdue_ns: int | None = None
    image: ImageOrder | None = None
    """Set while, and after, its image has to be found or fetched first."""
    image_watch: ImageWatch | None = None
    slicing: str | None = None
    """The snapshot it goes on from, once it was kept for good."""
    keeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    stdin_taken: int = 0
    stdin_turn: asyncio.Lock | None = None
    """Made by the first who writes: most executions take no input."""
    record: ExecutionRecord | None = None
    error: FaasError | None = None
    """Why there is no record: it could not be begun."""
    _waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    @property
    def runtime_reason(self) -> str:
        """Say why it runs where it runs."""
        if self.entry.spec.mode is Mode.PERSISTENT:
            return "where its instance is"
        return TAKEN_UP if self.choice is None else self.choice.reason

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.record is not None or self.error is not None

    def snapshot(self) -> ExecutionRecord:
        """Return the record as it stands."""
        if self.record is not None:
            return self.record
        entry = self.entry
        return ExecutionRecord(
            id=entry.id,
            tenant=entry.tenant,
            state=self.state,
            spec=entry.spec,
            created_at=entry.created_at,
            started_at=self.started_at,
        )

    def wake(self) -> None:
        """Tell everybody that something changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        """Return at the next change."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def begun(self) -> None:
        """Return when it is queued durably."""
        while not self.is_begun and not self.is_over:
            await self.change()
        if self.error is not None:
            raise self.error

    async def over(self) -> ExecutionRecord:
        """Return the final record."""
        while self.record is None:
            if self.error is not None:
                raise self.error
            if self.is_abandoned and self.task is not None and self.task.done():
                raise UnavailableError("the gateway is shutting down; the execution goes on")
            await self.change()
        return self.record
