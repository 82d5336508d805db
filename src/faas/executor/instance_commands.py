"""The executions of mode `persistent` under way, by instance; and their way to disk and back."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from faas.errors import WrongStateError
from faas.events import EventBus
from faas.executor.active import Active
from faas.executor.driver import Driver
from faas.executor.instance_records import InstanceRecord
from faas.executor.ledger import Ledger
from faas.executor.moving import MovingProcess
from faas.executor.places import Places
from faas.executor.run import Borrowed, process_name
from faas.executor.settings import ExecutorSettings
from faas.executor.spool import keep, output_files, remove
from faas.model import ExecutionState
from faas.sandbox.capabilities import Resumption
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import Process


class InstanceCommands:
    """See the module; `places`, `driver` and `ledger` come with the executor's start."""

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        places: Callable[[], Places],
        driver: Callable[[], Driver],
        ledger: Ledger,
        events: EventBus,
    ) -> None:
        self._settings = settings
        self._places = places
        self._driver = driver
        self._ledger = ledger
        self._events = events

    def are_running(self, instance: InstanceRecord) -> bool:
        """Whether any does."""
        return self._places().are_running(instance)

    async def end(self, instance: InstanceRecord) -> None:
        """Cancel them all, and wait until they have ended."""
        own = list(self._places().commands_of(instance))
        for active in own:
            self._driver().cancel(active)
        for active in own:
            while not active.is_over:
                await active.change()

    @asynccontextmanager
    async def leaving(self, instance: InstanceRecord) -> AsyncGenerator[None]:
        """Inside, they go to disk with their instance; they stay when that raises.

        Raises:
            WrongStateError: one has not begun, or is about to end.
        """
        moving = [_moving(active) for active in self._places().commands_of(instance)]
        for process in moving:
            process.leave()
        try:
            yield
        except BaseException:
            for process in moving:
                process.stay()
            raise
        for process in moving:
            process.go()

    async def keep_output(self, instance: InstanceRecord) -> None:
        """Keep what they have said where it outlives the machine."""
        for active in self._places().commands_of(instance):
            await asyncio.to_thread(keep, active.output, self._settings.spool_dir, active.entry.id)

    def resumptions(self, instance: InstanceRecord) -> dict[str, Resumption]:
        """How those on disk go on: where they were."""
        return {
            process_name(active.entry): Resumption(
                process_name(active.entry), active.output, is_continued=True
            )
            for active in self._places().commands_of(instance)
        }

    async def arrive(
        self, instance: InstanceRecord, sandbox: GuardedSandbox, restored: Mapping[str, Process]
    ) -> None:
        """They go on in this sandbox; those that were cancelled meanwhile end."""
        back: set[str] = set()
        for active in self._places().commands_of(instance):
            name = process_name(active.entry)
            process = active.process
            if not isinstance(process, MovingProcess):
                continue  # it waits for its turn
            if name not in restored:
                process.lose()
                continue
            back.add(name)
            active.sandbox = Borrowed(sandbox, events=self._events)
            await self._ledger.place(
                active.entry.seq,
                ExecutionState.RUNNING,
                runtime=sandbox.runtime,
                sandbox_id=sandbox.id,
                started_at=active.started_at,
            )
            process.arrive(restored[name])
            remove(output_files(self._settings.spool_dir, active.entry.id))
        for name, process in restored.items():
            if name not in back and not process.progress().is_ended:
                await process.kill()


def _moving(active: Active) -> MovingProcess:
    if not isinstance(active.process, MovingProcess) or active.is_finishing:
        raise WrongStateError("a command there is just beginning or ending", hint="try again")
    return active.process
