"""Where commands run now: an instance, or the sandbox of an execution that has not ended.

One who follows or steers what runs names it by the id of an instance, of an execution or of a
sandbox; `Places.find` says which of the two it is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from faas.errors import ExecutionNotFoundError, NotFoundError, WrongStateError
from faas.executor.active import Active
from faas.executor.instance_records import InstanceRecord
from faas.executor.instances import Instances
from faas.ids import ExecutionId, InstanceId, SandboxId, TenantId
from faas.model import Mode
from faas.sandbox.guarded import GuardedSandbox
from faas.tenancy import Principal

Actives = Callable[[], Mapping[ExecutionId, Active]]


@dataclass(frozen=True, slots=True)
class Place:
    """Exactly one of the two."""

    instance_id: InstanceId | None = None
    execution_id: ExecutionId | None = None


class Places:
    """Looks at what runs; changes nothing."""

    def __init__(self, actives: Actives, instances: Instances) -> None:
        self._actives = actives
        self._instances = instances

    def find(self, reference: str, principal: Principal) -> Place:
        """Say what a reference means; whether an execution of that id exists is not asked.

        Raises:
            NotFoundError: there is no such instance or sandbox, or it is another tenant's.
        """
        if reference.startswith("exec-"):
            return Place(execution_id=ExecutionId(reference))
        if not reference.startswith("sbx-"):
            return Place(instance_id=self._instances.get(reference, principal).id)
        for record in self._instances.list(principal):
            if record.sandbox_id == reference:
                return Place(instance_id=record.id)
        for active in self._of(principal.tenant.id):
            if active.sandbox is not None and active.sandbox.id == reference:
                return Place(execution_id=active.entry.id)
        raise NotFoundError("there is no such sandbox now", details={"container_id": reference})

    def running_in(self, sandbox_id: SandboxId, principal: Principal) -> list[ExecutionId]:
        """Name the commands that run in a sandbox, oldest first."""
        return sorted(
            active.entry.id
            for active in self._of(principal.tenant.id)
            if active.process is not None and active.sandbox and active.sandbox.id == sandbox_id
        )

    def sandbox(self, place: Place, principal: Principal) -> GuardedSandbox:
        """Return the sandbox of a place.

        Raises:
            WrongStateError: it has none now.
        """
        if place.instance_id is not None:
            sandbox_id = self._instances.get(place.instance_id, principal).sandbox_id
            sandbox = None if sandbox_id is None else self._instances.sandbox(sandbox_id)
        else:
            sandbox = self._active(place.execution_id, principal).sandbox
        if sandbox is None:
            raise WrongStateError("nothing runs there now")
        return sandbox

    def pid(self, execution_id: ExecutionId, principal: Principal) -> int | None:
        """Return the process id of a command in its sandbox, where the runtime tells."""
        active = self._actives().get(execution_id)
        if active is None or active.entry.tenant != principal.tenant.id:
            return None
        pid: object = getattr(active.process, "pid", None)
        return pid if isinstance(pid, int) else None

    async def begun(self, execution_id: ExecutionId) -> None:
        """Return when a command has begun, or will not any more."""
        active = self._actives().get(execution_id)
        while active is not None and active.process is None and not active.is_over:
            await active.change()

    def are_running(self, instance: InstanceRecord) -> bool:
        """Whether any execution runs, or waits to run, in an instance."""
        return any(True for _ in self.commands_of(instance))

    def commands_of(self, instance: InstanceRecord) -> Iterator[Active]:
        """Yield the executions that run, or wait to run, in an instance."""
        for active in self._of(instance.tenant):
            spec = active.entry.spec
            is_there = spec.instance_id in (instance.id, instance.spec.name)
            if is_there and spec.mode is Mode.PERSISTENT:
                yield active

    def beside(self, reference: str, tenant: TenantId) -> Active:
        """Return the execution beside which another command is to run.

        Raises:
            ExecutionNotFoundError: it is not under way.
        """
        active = self._actives().get(ExecutionId(reference))
        if active is None or active.entry.tenant != tenant:
            raise ExecutionNotFoundError(
                "no execution of that id is under way", details={"execution_id": reference[:64]}
            )
        return active

    def _active(self, execution_id: ExecutionId | None, principal: Principal) -> Active:
        return self.beside(execution_id or "", principal.tenant.id)

    def _of(self, tenant: TenantId) -> list[Active]:
        return [x for x in self._actives().values() if x.entry.tenant == tenant]
