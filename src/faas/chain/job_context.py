"""What every job is given, and what it gives back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from faas.chain.codec import JobCall
from faas.chain.journal import SeenCall
from faas.chain.receipts import Means
from faas.clock import Clock
from faas.errors import InvalidArgumentError
from faas.executor.idempotency import IdempotencyKey
from faas.executor.instances import Instances
from faas.executor.origins import Origins
from faas.ids import InstanceId, SnapshotId, TenantId, derived
from faas.model import ExecutionRecord, ExecutionSpec, Limits
from faas.tenancy import Principal, Quota, Scope, Tenant

_MILLIS: Final = 1000


class Executor(Protocol):
    """The part of `PlatformExecutor` that jobs use."""

    async def execute(
        self,
        spec: ExecutionSpec,
        principal: Principal,
        *,
        idempotency: IdempotencyKey | None = None,
    ) -> ExecutionRecord:
        """Run to the end and return the final record."""
        ...

    @property
    def origins(self) -> Origins:
        """Snapshots, and what children start from."""
        ...

    @property
    def instances(self) -> Instances:
        """The instances."""
        ...


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a job gets that does not say, and the most it may ask for."""

    chain_id: int
    manager: str = ""
    default_image: str = "host"
    limits: Limits = field(default_factory=Limits)
    ceilings: Limits = field(default_factory=Limits)
    timeout_ms_max: int = 3_600_000
    tenant_running_max: int = 64
    serves_ports: bool = False
    """Whether this operator has a door for ports of instances."""
    instance_idle_seconds: float = 900.0
    """After that an instance of a job sleeps: nobody on a chain remembers to stop one."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """Whose job it is, how long it may take, and what it has in secret."""

    settings: JobSettings
    principal: Principal
    idempotency: IdempotencyKey
    identity: bytes
    """A digest of chain, call, caller and inputs: what is made once is named by it."""
    seconds: float
    env: tuple[str, ...] = ()
    is_sealed: bool = False

    @property
    def snapshot_id(self) -> SnapshotId:
        """The id of the snapshot that this job makes: a second run finds it made."""
        return SnapshotId(derived("snap", self.identity))

    @property
    def instance_id(self) -> InstanceId:
        """The id of the instance that this job makes."""
        return InstanceId(derived("inst", self.identity))

    def limits(self, timeout_ms: int = 0) -> Limits:
        """The limits of this job, its time not above the deadline's."""
        most = min(self.settings.timeout_ms_max, max(1, int(self.seconds * _MILLIS)))
        wanted = timeout_ms or self.settings.limits.timeout_ms
        return replace(self.settings.limits, timeout_ms=min(wanted, most))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job made: its output, and the resource that it made or kept."""

    output: object
    resource: str = ""
    means: Means = field(default_factory=Means)
    ran_ms: tuple[int, int] | None = None
    """When it began and ended, where the executor remembers that over a restart."""
    failure: tuple[str, str] | None = None
    """The command's own: a code and a sentence."""


Handler = Callable[[Executor, JobCall, JobContext], Awaitable[Answer]]


def context_of(
    settings: JobSettings, seen: SeenCall, seconds: float, identity: bytes
) -> JobContext:
    """Whose job a call is. The tenant is the account that called: what it makes nobody else sees,
    whichever service it came by."""
    tenant = Tenant(
        TenantId(f"tangle-{settings.chain_id}-{seen.caller.lower() or seen.key.service}"),
        Quota(running_max=settings.tenant_running_max),
    )
    digest = seen.inputs_hash.hex()
    name = f"{settings.chain_id}/{seen.key.service}/{seen.key.call}/{digest}"
    return JobContext(
        settings,
        Principal(tenant, frozenset({Scope.EXECUTE, Scope.READ})),
        IdempotencyKey(name, digest),
        identity,
        seconds,
    )


def millis(clock: Clock) -> int:
    """The time now, as receipts tell it."""
    return int(clock.now().timestamp() * _MILLIS)


def required(value: str, what: str) -> str:
    """Refuse an empty name."""
    if not value:
        raise InvalidArgumentError(f"the {what} is missing")
    return value
