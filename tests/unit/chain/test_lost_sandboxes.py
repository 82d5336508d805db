"""A run whose sandbox was lost is no answer: the job runs anew, but not for ever."""

import pytest

from faas.chain.codec import ExecuteAdvanced, ExecuteFunction
from faas.chain.execution_jobs import execute_advanced, execute_function
from faas.chain.job_context import JobSettings, context_of
from faas.errors import ImageNotFoundError, SandboxBrokenError

ECHO = ExecuteFunction("", ("echo", "hi"), (), b"")


class _Executor:
    """Loses the sandboxes of its first runs, and answers a key always the same, as the real one."""

    def __init__(self, real, losses, error=SandboxBrokenError):
        self._real, self._losses, self._error = real, losses, error
        self.keys = []

    async def execute(self, spec, principal, *, idempotency=None):
        if idempotency.key not in self.keys:
            self.keys.append(idempotency.key)
        if self.keys.index(idempotency.key) < self._losses:
            raise self._error
        return await self._real.execute(spec, principal, idempotency=idempotency)


def _context(desk, seen):
    return context_of(JobSettings(desk.settings.chain_id), seen, 100, bytes(32))


async def test_job_whose_sandbox_was_lost_runs_again_under_a_key_of_its_own(desk):
    executor = _Executor(desk.platform.executor, losses=1)
    context = _context(desk, desk.seen(b"", job=0))
    assert (await execute_function(executor, ECHO, context)).output == b"hi\n"
    # After another kill the second run is found again, and there is no third.
    assert (await execute_function(executor, ECHO, context)).output == b"hi\n"
    assert executor.keys == [context.idempotency.key, f"{context.idempotency.key}/1"]


async def test_job_that_loses_every_sandbox_ends(desk):
    executor = _Executor(desk.platform.executor, losses=100)
    with pytest.raises(SandboxBrokenError):
        await execute_function(executor, ECHO, _context(desk, desk.seen(b"", job=0)))
    assert len(executor.keys) == 3


async def test_job_in_an_instance_is_not_run_again_for_it_may_have_done_half(desk):
    executor = _Executor(desk.platform.executor, losses=1)
    job = ExecuteAdvanced("inst-1", "", ("echo", "hi"), (), b"", "persistent", 0)
    with pytest.raises(SandboxBrokenError):
        await execute_advanced(executor, job, _context(desk, desk.seen(b"", job=1)))
    assert len(executor.keys) == 1


async def test_other_failures_are_answers(desk):
    executor = _Executor(desk.platform.executor, losses=1, error=ImageNotFoundError)
    with pytest.raises(ImageNotFoundError):
        await execute_function(executor, ECHO, _context(desk, desk.seen(b"", job=0)))
