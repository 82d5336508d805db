"""A job on its way: await it now, later, or from another process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Optional

from faas_sdk.tangle._errors import JobNotFoundError, ResultPendingError
from faas_sdk.tangle._models import Job, JobResult
from faas_sdk.tangle._node import Receipt
from faas_sdk.tangle._settlement import LookAgainError, OtherInputsError
from faas_sdk.tangle._submissions import Submission

if TYPE_CHECKING:
    from faas_sdk.tangle._calls import JobCalls


class JobHandle:
    """One job call. `(service_id, call_id)` is all that is needed to take it up again."""

    def __init__(
        self,
        calls: JobCalls,
        *,
        service_id: int,
        call_id: int,
        job_id: Optional[int] = None,
        inputs_hash: Optional[bytes] = None,
        submission: Optional[Submission] = None,
        receipt: Optional[Receipt] = None,
    ) -> None:
        self.service_id = service_id
        self.call_id = call_id
        """The call's number in its service. A reorg may change it until the job is deep enough."""
        self.job_id = job_id
        self._calls = calls
        self._inputs_hash = inputs_hash
        self._submission = submission
        self._receipt = receipt

    def __repr__(self) -> str:
        return f"JobHandle(service_id={self.service_id}, call_id={self.call_id})"

    @property
    def tx_hash(self) -> Optional[str]:
        """The transaction that submitted it, when this handle did."""
        return "0x" + self._receipt.transaction_hash.hex() if self._receipt else None

    @property
    def first_operator(self) -> Optional[str]:
        """To whom the job was given when this handle submitted it; it may have moved on since."""
        return self._calls.assigned_in(self._receipt) if self._receipt else None

    async def result(self, timeout: Optional[float] = None) -> JobResult:
        """Wait for the job's end.

        Raises:
            JobFailedError: it did not succeed.
            JobOverdueError: its operator did not answer before the deadline.
            ResultPendingError: not within `timeout` seconds; the job goes on.
        """
        return (await self.wait(timeout)).raise_for_status()

    async def wait(self, timeout: Optional[float] = None) -> JobResult:
        """Wait for the job's end, however it ended.

        Raises:
            JobOverdueError: its operator did not answer before the deadline.
            ResultPendingError: not within `timeout` seconds; the job goes on.
        """
        try:
            return await asyncio.wait_for(self._wait(), timeout)
        except asyncio.TimeoutError:
            raise ResultPendingError(
                f"job call {self.call_id} of service {self.service_id} has no result yet",
                hint=f"client.job({self.call_id}, service_id={self.service_id}) takes it up again",
            ) from None

    async def get(self) -> Job:
        """Look at the job now.

        Raises:
            JobNotFoundError: the service has no such call.
        """
        return await self._calls.get_job(self.call_id, service_id=self.service_id)

    async def _wait(self) -> JobResult:
        while True:
            await self._find_again()
            try:
                return await self._calls.settlements.wait(
                    (self.service_id, self.call_id),
                    job_id=self.job_id,
                    inputs_hash=self._inputs_hash,
                    first_block=self._receipt.block_number if self._receipt else None,
                )
            except (LookAgainError, OtherInputsError) as change:
                if isinstance(change, OtherInputsError) and self._submission is None:
                    raise JobNotFoundError(
                        f"job call {self.call_id} is of other inputs: a reorg gave its number away"
                    ) from None

    async def _find_again(self) -> None:
        """After a reorg the submission may be in another block, under another number."""
        if self._submission is None or self._receipt is None:
            return
        block = await self._calls.contracts.node.block(self._receipt.block_number)
        if block is not None and block.hash == self._receipt.block_hash:
            return
        self._receipt = await self._calls.mined(self._submission)
        self.call_id = self._calls.call_id_of(self._receipt)
