"""The same job by several operators, compared: what one of them makes up the others do not say.

Each copy is a job call of its own, for one accepted answer ends a call. That the copies go to
different operators is the contracts' doing, in one of two ways:

- by turns: the manager gives each copy to the least loaded; before a copy is submitted it is asked
  who would be next, so that a copy that would prove nothing is not paid for;
- by quotes: each copy is bought from another operator, and Tangle takes an answer of no one else.

It is looked at again at the end: a copy may have been passed on meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

from faas_sdk._errors import InvalidArgumentError
from faas_sdk.tangle._codec import ExecuteAdvanced, ExecuteFunction, JobCall, JobStatus
from faas_sdk.tangle._contracts import NOBODY
from faas_sdk.tangle._errors import ResultsDisagreeError, TooFewOperatorsError
from faas_sdk.tangle._handle import JobHandle
from faas_sdk.tangle._models import JobResult

if TYPE_CHECKING:
    from faas_sdk.tangle._calls import JobCalls, SubmitOptions

TURN_SECONDS = 15.0
"""To wait for another operator's turn: a few blocks, in which loads move."""
_LOOK_SECONDS = 0.5
_ATTEMPTS_A_COPY = 2
"""Somebody else's job between the question and the copy may change whose turn it is."""


async def submit_copies(
    calls: JobCalls,
    call: JobCall,
    *,
    copies: int,
    doors: Sequence[str],
    options: SubmitOptions,
) -> List[JobHandle]:
    """Submit a job once for each of so many different operators.

    Raises:
        InvalidArgumentError: the job is one that others cannot run.
        TooFewOperatorsError: not so many operators can be had.
    """
    _check(call, copies)
    made = _Copies(calls, call, copies, options)
    serving = await calls.get_operators(service_id=made.service_id)
    if sum(operator.is_active for operator in serving) < copies:
        raise TooFewOperatorsError(f"{copies} operators are wanted, and {len(serving)} serve")
    await made.find_again()
    await (made.buy(doors) if doors else made.take_turns())
    return list(made.by_operator.values())


async def wait_for_all(handles: Sequence[JobHandle], timeout: Optional[float]) -> List[JobResult]:
    """Wait for the end of each, however it ended."""
    waiting = (handle.wait(timeout) for handle in handles)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    results: List[JobResult] = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        results.append(each)
    return results


def compared(results: Sequence[JobResult]) -> JobResult:
    """Compare what different operators answered; the one result when all say the same.

    Raises:
        ResultsDisagreeError: they do not.
        TooFewOperatorsError: an operator answered two of them.
        JobFailedError: they agree that it failed, or nobody answered one.
    """
    for result in results:
        if result.status is JobStatus.TIMED_OUT:
            result.raise_for_status()
    if len({result.operator for result in results}) < len(results):
        raise TooFewOperatorsError(
            "a copy was passed on to an operator that ran another: they compare nothing",
            calls=tuple(result.call_id for result in results),
        )
    groups: Dict[Tuple[object, ...], List[JobResult]] = {}
    for result in results:
        groups.setdefault((result.result, result.failure), []).append(result)
    most = max(groups.values(), key=len)
    agreed = replace(most[0], agreed_by=tuple(each.operator for each in most))
    if len(groups) == 1:
        return agreed.raise_for_status()
    is_majority = 2 * len(most) > len(results)
    raise ResultsDisagreeError(results=tuple(results), majority=agreed if is_majority else None)


class _Copies:
    def __init__(self, calls: JobCalls, call: JobCall, wanted: int, options: SubmitOptions) -> None:
        self._calls = calls
        self._call = call
        self._wanted = wanted
        self._options = options
        self._key = options.get("idempotency_key")
        self._submitted = 0
        self.service_id = calls.service_of(options.get("service_id"))
        self.by_operator: Dict[str, JobHandle] = {}

    async def find_again(self) -> None:
        """Take up the copies that were submitted under the same key before."""
        while self._key:
            handle = await self._calls.found_again(
                self._call, self._name(), service_id=self.service_id
            )
            if handle is None:
                return
            self._add(handle)

    async def take_turns(self) -> None:
        while len(self.by_operator) < self._wanted:
            if self._submitted >= self._wanted * _ATTEMPTS_A_COPY:
                raise self._too_few("the manager gave copies to the same operator again")
            if self.by_operator:
                await self._wait_for_another()
            self._add(await self._calls.submit_job(self._call, **self._named()))

    async def buy(self, doors: Sequence[str]) -> None:
        missing = self._wanted - len(self.by_operator)
        if missing <= 0:
            return
        quotes = await self._calls.quote(self._call, doors, service_id=self.service_id)
        # The cheapest come first; of one operator only one counts.
        others = {q.operator: q for q in reversed(quotes) if q.operator not in self.by_operator}
        if len(others) < missing:
            raise self._too_few(f"{len(others)} more operators gave a quote, {missing} are missing")
        for quote in sorted(others.values(), key=lambda quote: quote.price)[:missing]:
            named = self._named()
            self._add(await self._calls.submit_from_quote(self._call, [quote], **named))

    async def _wait_for_another(self) -> None:
        until = time.monotonic() + TURN_SECONDS
        number = max(handle.call_id for handle in self.by_operator.values()) + 1
        while True:
            following = await self._calls.contracts.next_operator(self.service_id, number)
            if following != NOBODY and following not in self.by_operator:
                return
            if time.monotonic() > until:
                raise self._too_few("no other operator is free, or its turn does not come")
            await asyncio.sleep(_LOOK_SECONDS)

    def _add(self, handle: JobHandle) -> None:
        self._submitted += 1
        self.by_operator.setdefault(handle.first_operator or "", handle)

    def _named(self) -> SubmitOptions:
        named: SubmitOptions = {**self._options, "service_id": self.service_id}
        if self._key:
            named["idempotency_key"] = self._name()
        return named

    def _name(self) -> str:
        return f"{self._key}/{self._submitted}"

    def _too_few(self, why: str) -> TooFewOperatorsError:
        calls = tuple(handle.call_id for handle in self.by_operator.values())
        return TooFewOperatorsError(
            f"{len(calls)} of {self._wanted} operators have the job: {why}", calls=calls
        )


def _check(call: JobCall, copies: int) -> None:
    if copies < 1:
        raise InvalidArgumentError("verify_with is how many operators run the job, 1 at least")
    is_command = isinstance(call, (ExecuteFunction, ExecuteAdvanced))
    if copies > 1 and (not is_command or getattr(call, "resource", "")):
        raise InvalidArgumentError(
            "a job on a resource, or that makes one, is its holder's: no other operator can run it",
            hint="verify_with= is for commands without a resource",
        )
