"""What a client of a sandbox's WebSocket may ask for, done.

`obey` returns at once; what takes long is returned as work to be awaited beside the reading of
further commands, so that a client can feed the command it has just begun.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from faas.errors import InvalidArgumentError, WrongStateError
from faas.executor.origins import Wanted
from faas.executor.places import Place
from faas.gateway.container_output import Tell
from faas.gateway.container_wire import (
    CheckpointCommand,
    Command,
    CustomEvent,
    ExecCommand,
    ResizeCommand,
    StdinCommand,
    StopCommand,
)
from faas.gateway.door import Door
from faas.gateway.specs import check, decoded
from faas.gateway.strict import Faults
from faas.gateway.wire import ExecuteRequest
from faas.ids import ExecutionId
from faas.lifecycle import InstanceState
from faas.model import ExecutionState
from faas.snapshots import SnapshotRecord
from faas.tenancy import Principal

Follow = Callable[[ExecutionId], asyncio.Task[None]]
Work = Coroutine[Any, Any, None]


class Commands:
    """The commands of one client."""

    def __init__(
        self, door: Door, principal: Principal, *, place: Place, tell: Tell, follow: Follow
    ) -> None:
        self._door = door
        self._principal = principal
        self._place = place
        self._tell = tell
        self._follow = follow
        self._fed: ExecutionId | None = place.execution_id
        self._feeding = asyncio.Lock()

    async def obey(self, command: Command) -> Work | None:
        """Do one command, or return the rest of the work.

        Raises:
            FaasError: it is refused.
        """
        match command:
            case StdinCommand():
                return self._stdin(command)
            case ExecCommand():
                await self._exec(command)
            case CheckpointCommand():
                return self._checkpoint(command)
            case ResizeCommand():
                await self._resize(command)
            case StopCommand():
                return self._stop()
            case _:
                await self._state()
        return None

    def _stdin(self, command: StdinCommand) -> Work:
        faults = Faults()
        if command.data is not None and command.data_base64 is not None:
            faults.add("$.data_base64", "was given beside `data`; give one of the two")
        data = (command.data or "").encode()
        if command.data_base64 is not None:
            data = decoded(command.data_base64, "$.data_base64", faults)
        faults.raise_if_any()
        execution_id = ExecutionId(command.execution_id or self._fed or "")
        if not execution_id:
            raise WrongStateError(
                "no command here takes input", hint="begin one by exec with stdin true"
            )
        return self._feed(execution_id, data, command)

    async def _feed(self, execution_id: ExecutionId, data: bytes, command: StdinCommand) -> None:
        async with self._feeding:
            taken = await self._door.executor.write_stdin(
                execution_id,
                self._principal,
                data,
                offset=command.offset,
                is_last=command.last,
            )
        told = {"bytes": len(data), "offset": taken, "execution_id": execution_id}
        await self._tell(CustomEvent("stdin_ack", told))

    async def _exec(self, command: ExecCommand) -> None:
        request = ExecuteRequest(
            command=command.command,
            mode="persistent",
            instance_id=self._place.instance_id or self._place.execution_id,
            env_vars=command.env_vars,
            working_dir=command.working_dir,
            user=command.user,
            timeout_ms=command.timeout_ms,
            stdin_open=command.stdin,
            tty=command.tty,
        )
        if command.command == [""]:
            raise InvalidArgumentError("$.command[0]: is empty: it names the program")
        spec = check(request, self._door.settings, Faults())
        record = await self._door.executor.submit(spec, self._principal)
        if command.stdin:
            self._fed = record.id
        await self._tell(CustomEvent("exec_started", {"execution_id": record.id}))
        self._follow(record.id)

    async def _state(self) -> None:
        if self._place.instance_id is not None:
            await self._tell(CustomEvent("state", self._instance_state()))
            return
        assert self._place.execution_id is not None  # noqa: S101  a place is one of the two
        record = await self._door.executor.get(self._place.execution_id, self._principal)
        result = record.result
        await self._tell(
            CustomEvent(
                "state",
                {
                    "status": record.state.value,
                    "running": record.state is ExecutionState.RUNNING,
                    "paused": False,
                    "restarting": False,
                    "pid": self._door.executor.places.pid(record.id, self._principal),
                    "exit_code": None if result is None else result.exit_code,
                    "started_at": record.started_at,
                },
            )
        )

    def _instance_state(self) -> dict[str, Any]:
        record = self._door.executor.instances.get(self._place.instance_id or "", self._principal)
        return {
            "status": record.state.value,
            "running": record.state is InstanceState.RUNNING,
            "paused": record.state is InstanceState.PAUSED,
            "restarting": record.intent is not None,
            "pid": 1 if record.sandbox_id is not None else None,
            "exit_code": None,
            "started_at": record.changed_at,
        }

    async def _resize(self, command: ResizeCommand) -> None:
        execution_id = ExecutionId(command.execution_id or self._fed or "")
        if not execution_id:
            raise WrongStateError("no command here has a terminal", hint="exec with tty true")
        await self._door.executor.resize_terminal(
            execution_id, self._principal, rows=command.rows, columns=command.columns
        )

    async def _checkpoint(self, command: CheckpointCommand) -> None:
        executor, name = self._door.executor, command.name
        if self._place.instance_id is not None:
            reference = self._place.instance_id
            info = executor.instances.describe(reference, self._principal, name=name)
            made = await executor.instances.snapshot(
                reference, self._principal, info, memory=command.memory
            )
        else:
            reference = self._place.execution_id or ""
            wanted = Wanted(name=name)
            keep = executor.origins.memory_of if command.memory else executor.origins.snapshot_of
            made = await keep(reference, self._principal, wanted)
        await self._tell_checkpoint(made, reference, name)

    async def _tell_checkpoint(
        self, made: SnapshotRecord, reference: str, name: str | None
    ) -> None:
        await self._tell(
            CustomEvent(
                "checkpoint_created",
                {
                    "checkpoint_name": name or made.id,
                    "snapshot_id": made.id,
                    "container_id": reference,
                    "created_at": made.created_at,
                },
            )
        )

    async def _stop(self) -> None:
        if self._place.instance_id is not None:
            await self._door.executor.instances.stop(self._place.instance_id, self._principal)
        elif self._place.execution_id is not None:
            await self._door.executor.cancel(self._place.execution_id, self._principal)
