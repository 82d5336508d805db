"""The values of the client: what became of a job, and who has it. Frozen, made whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Tuple

from faas_sdk.tangle._codec import JobStatus
from faas_sdk.tangle._errors import JobFailedError, JobTimedOutError


@dataclass(frozen=True)
class Failure:
    """Why a job did not succeed: the platform's code, and one sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class JobResult:
    """How a job ended, as the contract accepted it."""

    call_id: int
    service_id: int
    job_id: int
    result: Any
    """Bytes of an execution (or a `Reference` to them, or `Sealed`); text, a bool or a number of
    the others; None after a failure."""
    operator: str
    """Who answered."""
    tx_hash: str
    """The transaction that carried the answer."""
    block: int
    status: JobStatus
    failure: Optional[Failure] = None
    receipt: bytes = b""
    """The operator's signed record of what it did, when it gave one."""
    agreed_by: Tuple[str, ...] = ()
    """The operators that gave this same answer, where several were asked (`verify_with`)."""

    @property
    def ok(self) -> bool:
        """Whether the job did what it was for."""
        return self.status is JobStatus.DONE

    @property
    def text(self) -> str:
        """The output as text."""
        if isinstance(self.result, bytes):
            return self.result.decode(errors="replace")
        return "" if self.result is None else str(self.result)

    def raise_for_status(self) -> JobResult:
        """Return itself, unless the job failed.

        Raises:
            JobFailedError: it did.
        """
        if self.ok:
            return self
        kind = JobTimedOutError if self.status is JobStatus.TIMED_OUT else JobFailedError
        said = f"{self.failure.code}: {self.failure.message}" if self.failure else "no reason given"
        raise kind(f"job call {self.call_id} failed: {said}", result=self)


@dataclass(frozen=True)
class Job:
    """A job as the manager has it now."""

    service_id: int
    call_id: int
    job_id: int
    operator: str
    deadline: int
    """Seconds since 1970."""
    status: JobStatus
    attempts: int
    is_sticky: bool
    """Whether it is on a resource, and so stays with its operator."""
    result_hash: bytes


@dataclass(frozen=True)
class ServiceCall:
    """A job as Tangle has it."""

    job_id: int
    caller: str
    created_at: int
    result_count: int
    is_completed: bool
    is_quoted: bool
    payment: int


@dataclass(frozen=True)
class OperatorState:
    """One operator of the blueprint, over all its services."""

    address: str
    load: int
    capacity: int
    completed: int
    failed: int
    last_result_at: int
    is_active: bool
    is_draining: bool

    @property
    def is_free(self) -> bool:
        """Whether it takes a new job."""
        return self.is_active and not self.is_draining and self.load < self.capacity


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job."""

    kind: str
    """`assigned`, `accepted`, `rejected` or `expired`."""
    service_id: int
    call_id: int
    operator: str
    block: int
    tx_hash: str
    job_id: Optional[int] = None
    """Of `assigned`."""
    attempt: Optional[int] = None
    """Of `assigned`."""
    deadline: Optional[int] = None
    """Of `assigned`: seconds since 1970."""
    status: Optional[JobStatus] = None
    """Of `accepted`."""
    reason: Optional[str] = None
    """Of `rejected`."""
    is_removed: bool = False
    """A reorg took it back: it did not happen."""


@dataclass(frozen=True)
class SignedQuote:
    """An operator's signed price for one job."""

    requester: str
    service_id: int
    job_id: int
    price: int
    timestamp: int
    expiry: int
    inputs_hash: bytes
    signature: bytes
    operator: str
    confidentiality: int = 0

    def as_tuple(self) -> Any:
        """In the order of the contract."""
        details = (
            *(self.requester, self.service_id, self.job_id, self.price, self.timestamp),
            *(self.expiry, self.confidentiality, self.inputs_hash),
        )
        return (details, self.signature, self.operator)
