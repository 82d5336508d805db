"""One instance in memory, and why it cannot be used just now."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from faas.errors import FaasError, InvalidArgumentError, SandboxBrokenError, WrongStateError
from faas.executor.instance_records import InstanceRecord, Intent
from faas.lifecycle import InstanceState
from faas.sandbox.capabilities import Resumption
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import Process
from faas.tenancy import Tenant

ID_PREFIX = "inst-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_UNDER_WAY = {
    Intent.CREATE: "being made",
    Intent.START: "starting",
    Intent.STOP: "stopping",
    Intent.PAUSE: "being paused",
    Intent.DELETE: "being deleted",
}


class Commands(Protocol):
    """The executions that run in instances, as the executor knows them."""

    def are_running(self, instance: InstanceRecord) -> bool:
        """Whether any does."""
        ...

    async def end(self, instance: InstanceRecord) -> None:
        """Cancel them all, and wait until they have ended."""
        ...

    def leaving(self, instance: InstanceRecord) -> AbstractAsyncContextManager[None]:
        """Inside, they go to disk with their instance; they stay when that raises."""
        ...

    async def keep_output(self, instance: InstanceRecord) -> None:
        """Keep what they have said where it outlives the machine."""
        ...

    def resumptions(self, instance: InstanceRecord) -> Mapping[str, Resumption]:
        """How those on disk go on."""
        ...

    async def arrive(
        self, instance: InstanceRecord, sandbox: GuardedSandbox, restored: Mapping[str, Process]
    ) -> None:
        """They go on in this sandbox."""
        ...


@dataclass(slots=True, eq=False)
class Life:
    """One instance in memory."""

    record: InstanceRecord
    tenant: Tenant
    used_ns: int
    sandbox: GuardedSandbox | None = None
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by each step that changes its state."""
    worked_us: int | None = None
    """Its processor time at the last look, and when that was (`Idleness`)."""
    looked_ns: int = 0


def not_running(record: InstanceRecord) -> FaasError:
    """Say why an instance cannot be used."""
    if record.state is InstanceState.FAILED:
        return SandboxBrokenError(f"the instance failed: {record.problem}")
    word = _UNDER_WAY[record.intent] if record.intent else record.state.value
    hints = {InstanceState.STOPPED: "start it first", InstanceState.PAUSED: "resume it first"}
    return WrongStateError(
        f"the instance is {word}",
        hint=hints.get(record.state),
        details={"state": record.state.value},
    )


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an instance.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{name[:64]!r} is not a name for an instance",
            hint="letters, digits, `.`, `_` and `-`, at most 63, a letter or digit first",
        )
    if name.startswith((ID_PREFIX, "exec-", "sbx-", "snap-")):
        raise InvalidArgumentError(f"{name[:64]!r} would be taken for an id")
