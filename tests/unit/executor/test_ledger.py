"""What was told to be durable is."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from faas.clock import FakeClock
from faas.errors import InvalidConfigError, UnavailableError
from faas.executor.ledger import TRIM_STEP, Ledger
from faas.executor.records import Beginning
from faas.executor.settings import Retention
from faas.ids import TenantId, new_execution_id
from faas.model import (
    ExecutionRecord,
    ExecutionSpec,
    ExecutionState,
    FailureRecord,
    FileInput,
)

TENANT = TenantId("t")
NOW = FakeClock().now()
FAILURE = FailureRecord("internal", "because")


def beginning(ledger: Ledger, **fields) -> Beginning:
    entry = Beginning(
        seq=ledger.next_seq(),
        id=new_execution_id(),
        tenant=TENANT,
        state=ExecutionState.QUEUED,
        is_detached=False,
        idempotency_key=None,
        request_digest=None,
        runtime="fake",
        sandbox_id=None,
        created_at=NOW,
        started_at=None,
        spec=ExecutionSpec(argv=("true",), image="host"),
    )
    return replace(entry, **fields)


async def end(ledger: Ledger, entry: Beginning, **fields) -> ExecutionRecord:
    record = ExecutionRecord(
        id=entry.id,
        tenant=entry.tenant,
        state=ExecutionState.FAILED,
        spec=entry.spec,
        created_at=NOW,
        finished_at=fields.pop("finished_at", NOW),
        failure=FAILURE,
    )
    options = {"stdout_bytes": 0, "stderr_bytes": 0, "is_spooled": False, "releases_key": False}
    await ledger.finish(entry, record, **{**options, **fields})
    return record


@pytest.fixture(params=["normal", "full"])
async def ledger(tmp_path, request):
    opened = Ledger(tmp_path / "ledger.sqlite", synchronous=request.param)
    yield opened
    await opened.aclose()


async def test_what_began_is_live_until_it_ends(ledger):
    entry = beginning(ledger)
    await ledger.begin(entry)
    assert list(ledger.live()) == [entry]
    record = await end(ledger, entry)
    assert list(ledger.live()) == []
    assert ledger.get(entry.id, TENANT).record == record


async def test_one_that_runs_alone_is_durable_without_a_round_of_the_loop(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    entry = beginning(ledger)
    assert ledger.begin(entry).done()
    other = ledger.begin(beginning(ledger))
    assert not other.done()
    await other
    await ledger.aclose()


async def test_everything_asked_in_one_tick_is_one_commit(ledger, tmp_path):
    await ledger.begin(beginning(ledger))
    commits = []
    ledger._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    entries = [beginning(ledger) for _ in range(20)]
    await asyncio.gather(*[ledger.begin(entry) for entry in entries])
    assert len(commits) == 1
    assert list(ledger.live())[1:] == entries


async def test_where_many_run_the_next_commit_waits_a_round_for_more(ledger, monkeypatch):
    sizes: list[int] = []
    commit = ledger._commit

    def counted(batch) -> None:
        sizes.append(len(batch.waiters))
        commit(batch)

    await ledger.begin(beginning(ledger))
    monkeypatch.setattr(ledger, "_commit", counted)
    await asyncio.gather(ledger.begin(beginning(ledger)), ledger.begin(beginning(ledger)))
    early = ledger.begin(beginning(ledger))
    await asyncio.sleep(0)
    assert not early.done()
    await asyncio.gather(early, ledger.begin(beginning(ledger)))
    await ledger.begin(beginning(ledger))
    assert sizes == [2, 2, 1]


async def test_another_connection_sees_a_row_before_its_writer_goes_on(ledger, tmp_path):
    entry = beginning(ledger)
    await ledger.begin(entry)
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert other.execute("SELECT id FROM executions").fetchall() == [(entry.id,)]
    other.close()


async def test_content_is_kept_only_while_it_may_have_to_run_again(ledger):
    spec = ExecutionSpec(
        argv=("x",), image="host", stdin=b"in", archive=b"tar", files=(FileInput("/a", b"a"),)
    )
    detached = beginning(ledger, spec=spec, is_detached=True)
    waited_for = beginning(ledger, spec=spec)
    await asyncio.gather(ledger.begin(detached), ledger.begin(waited_for))
    slim = replace(spec, stdin=None, archive=None, files=(FileInput("/a", b""),))
    assert [entry.spec for entry in ledger.live()] == [spec, slim]
    await end(ledger, detached)
    assert ledger.get(detached.id, TENANT).record.spec == slim
    count = ledger._reader.execute("SELECT count(*) FROM payloads").fetchone()
    assert count == (0,)


async def test_a_key_is_found_until_it_is_released(ledger):
    entry = beginning(ledger, idempotency_key="k", request_digest="d")
    await ledger.begin(entry)
    assert ledger.find_key(TENANT, "k") == (entry.id, "d")
    assert ledger.find_key(TenantId("other"), "k") is None
    await end(ledger, entry, releases_key=True)
    assert ledger.find_key(TENANT, "k") is None


async def test_a_place_is_remembered(ledger):
    entry = beginning(ledger)
    await ledger.begin(entry)
    await ledger.place(
        entry.seq, ExecutionState.RUNNING, runtime="r", sandbox_id="sbx-1", started_at=NOW
    )
    (live,) = ledger.live()
    assert live == replace(
        entry, state=ExecutionState.RUNNING, runtime="r", sandbox_id="sbx-1", started_at=NOW
    )


async def test_a_write_that_fails_is_told_to_everybody_who_waits_for_it(ledger):
    entry = beginning(ledger)
    await ledger.begin(entry)
    other = beginning(ledger)
    first, second = ledger.begin(entry), ledger.begin(other)
    for waiter in (first, second):
        with pytest.raises(UnavailableError):
            await waiter
    await ledger.begin(beginning(ledger))
    assert len(list(ledger.live())) == 2


async def test_trimming_by_count_takes_the_oldest_in_bounded_steps(ledger):
    entries = [beginning(ledger) for _ in range(TRIM_STEP + 30)]
    await asyncio.gather(*[ledger.begin(entry) for entry in entries])
    for entry in entries:
        await end(ledger, entry)
    policy = Retention(count_max=10)
    assert len(ledger.trim(policy, now=NOW)) == TRIM_STEP
    assert len(ledger.trim(policy, now=NOW)) == 20
    assert ledger.trim(policy, now=NOW) == []
    kept = ledger.page(TENANT, limit=99, before=None, state=None)
    assert {row.record.id for row in kept} == {entry.id for entry in entries[-10:]}


async def test_trimming_by_age_and_by_bytes(ledger):
    old, big, new = (beginning(ledger) for _ in range(3))
    for entry in (old, big, new):
        await ledger.begin(entry)
    await end(ledger, old, finished_at=NOW - timedelta(days=30))
    await end(ledger, big, is_spooled=True, stdout_bytes=10_000)
    await end(ledger, new)
    assert [t.id for t in ledger.trim(Retention(), now=NOW)] == [old.id]
    gone = ledger.trim(Retention(bytes_max=5_000), now=NOW)
    assert [(t.id, t.is_spooled) for t in gone] == [(big.id, True)]
    assert ledger.count == 1


async def test_a_live_execution_is_never_trimmed(ledger):
    entry = beginning(ledger)
    await ledger.begin(entry)
    assert ledger.trim(Retention(count_max=0, age_seconds_max=0.0), now=NOW) == []
    assert list(ledger.live()) == [entry]


async def test_totals_survive_reopening(tmp_path):
    path = tmp_path / "l.sqlite"
    first = Ledger(path)
    entry = beginning(first)
    await first.begin(entry)
    await end(first, entry)
    await first.aclose()
    second = Ledger(path)
    assert (second.count, second.bytes) == (first.count, first.bytes)
    assert second.next_seq() == entry.seq + 1
    await second.aclose()


async def test_a_checkpoint_empties_the_log_into_the_file(ledger):
    await ledger.begin(beginning(ledger))
    assert ledger.wal_bytes() > 0
    await asyncio.to_thread(ledger.checkpoint)
    assert len(list(ledger.live())) == 1


async def test_a_file_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "l.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(InvalidConfigError, match="newer"):
        Ledger(path)


async def test_the_file_is_for_its_owner_only(ledger, tmp_path):
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o077 == 0


WRITER = """
import asyncio, sys
from pathlib import Path
from datetime import UTC, datetime
from faas.executor.ledger import Ledger
from faas.executor.records import Beginning
from faas.ids import TenantId, new_execution_id
from faas.model import ExecutionSpec, ExecutionState

async def write(ledger, name):
    while True:
        entry = Beginning(
            seq=ledger.next_seq(), id=new_execution_id(), tenant=TenantId("t"),
            state=ExecutionState.QUEUED, is_detached=False, idempotency_key=None,
            request_digest=None, runtime=None, sandbox_id=None,
            created_at=datetime.now(UTC), started_at=None,
            spec=ExecutionSpec(argv=("x" * 500,), image="host"),
        )
        await ledger.begin(entry)
        print(entry.id, flush=True)

async def main():
    ledger = Ledger(Path(sys.argv[1]))
    async with asyncio.TaskGroup() as group:
        for name in range(8):
            group.create_task(write(ledger, name))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 57, 400])
async def test_after_kill_9_every_acknowledged_row_is_there(tmp_path, lines):
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        told = [child.stdout.readline().strip() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()
        told += rest.split("\n")[: rest.count("\n")]
    reopened = Ledger(path)
    kept = {entry.id for entry in reopened.live()}
    await reopened.aclose()
    assert len(told) >= lines
    assert [execution_id for execution_id in told if execution_id not in kept] == []
