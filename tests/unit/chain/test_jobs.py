"""The jobs really do what they are named, once, for the account that called and for nobody else."""

import io
import tarfile
from dataclasses import replace

import pytest
from tests.unit.chain.desk import ALICE, MALLORY

from faas.chain.codec import (
    CreateBranch,
    CreateSnapshot,
    ExecuteAdvanced,
    ExecuteFunction,
    ExposePort,
    JobStatus,
    MergeBranches,
    PauseInstance,
    RestoreSnapshot,
    ResumeInstance,
    StartInstance,
    StopInstance,
    UploadFiles,
    resource_key_of,
)
from faas.chain.receipts import problems_of
from faas.lifecycle import InstanceState

START = StartInstance("", "img", 0, 0, 0, enable_ssh=False)


def _tar(**files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _in(instance, *command, mode="persistent"):
    return ExecuteAdvanced(instance, "", command, (), b"", mode, 0)


async def _instance(desk):
    return (await desk.do(START)).output


def _state(desk, instance, caller=ALICE):
    [record] = [r for r in _records(desk) if r.id == instance]
    assert caller.lower() in record.tenant
    return record.state


def _records(desk):
    return [life.record for life in desk.platform.executor.instances._lives.values()]


async def _snapshots(desk):
    return await desk.platform.snapshots.page()


async def test_command_answers_what_it_wrote_and_failure_its_code_and_words(desk):
    said = await desk.do(ExecuteFunction("img", ("cat",), ("A=1",), b"payload"))
    assert said.output == b"payload"
    failed = await desk.do(ExecuteFunction("img", ("sh", "-c", "echo no >&2; exit 3"), (), b""))
    assert failed.code == "command_failed"
    assert "code 3" in failed.failure[1]
    assert "no" in failed.failure[1]


async def test_instance_starts_runs_pauses_resumes_and_stops(desk):
    started = await desk.do(START)
    instance = started.output
    assert started.envelope.resource_key == resource_key_of(instance)
    assert _state(desk, instance) is InstanceState.RUNNING
    assert (await desk.do(_in(instance, "echo", "hi"))).output == b"hi\n"
    checkpoint = (await desk.do(PauseInstance(instance))).output
    assert _state(desk, instance) is InstanceState.PAUSED
    assert (await desk.do(_in(instance, "echo", "hi"))).code == "wrong_state"
    assert (await desk.do(ResumeInstance(checkpoint))).output == instance
    assert _state(desk, instance) is InstanceState.RUNNING
    assert (await desk.do(StopInstance(instance))).output is True
    assert _state(desk, instance) is InstanceState.STOPPED


async def test_uploaded_files_are_in_the_instance_and_their_bytes_are_counted(desk):
    instance = await _instance(desk)
    done = await desk.do(UploadFiles(instance, "/srv/app", _tar(a=b"12345", b=b"678")))
    assert done.output == 8
    place = desk.platform.executor.instances
    principal = _principal(desk)
    async with place.use(instance, principal) as (_, sandbox):
        assert await sandbox.read_file("/srv/app/a") == b"12345"


def _principal(desk, caller=ALICE):
    from faas.chain.job_context import context_of

    seen = desk.seen(b"", job=0, caller=caller, call=0)
    return context_of(desk.settings, seen, 1, bytes(32)).principal


async def test_snapshot_of_an_instance_is_restored_into_another(desk):
    instance = await _instance(desk)
    await desk.do(UploadFiles(instance, "/workspace", _tar(kept=b"data")))
    snapshot = (await desk.do(CreateSnapshot(instance, "before", "why"))).output
    [record] = await _snapshots(desk)
    assert (record.id, record.name, record.description) == (snapshot, "before", "why")
    other = (await desk.do(RestoreSnapshot(snapshot))).output
    assert other != instance
    async with desk.platform.executor.instances.use(other, _principal(desk)) as (_, sandbox):
        assert await sandbox.read_file("/workspace/kept") == b"data"


async def test_branches_are_run_on_and_merged(desk):
    instance = await _instance(desk)
    await desk.do(UploadFiles(instance, "/workspace", _tar(base=b"0")))
    base = (await desk.do(CreateSnapshot(instance, "", ""))).output
    heads = []
    for name in ("left", "right"):
        branch = (await desk.do(CreateBranch(base, name))).output
        restored = (await desk.do(RestoreSnapshot(branch))).output
        await desk.do(UploadFiles(restored, "/workspace", _tar(**{name: name.encode()})))
        heads.append((await desk.do(CreateSnapshot(restored, name, ""))).output)
    merged = (await desk.do(MergeBranches(heads[0], (heads[1],), "union"))).output
    restored = (await desk.do(RestoreSnapshot(merged))).output
    async with desk.platform.executor.instances.use(restored, _principal(desk)) as (_, sandbox):
        assert await sandbox.read_file("/workspace/left") == b"left"
        assert await sandbox.read_file("/workspace/right") == b"right"
        assert await sandbox.read_file("/workspace/base") == b"0"


async def test_stopped_instance_gives_a_snapshot_that_outlives_its_next_stop(desk):
    instance = await _instance(desk)
    await desk.do(UploadFiles(instance, "/workspace", _tar(kept=b"data")))
    await desk.do(StopInstance(instance))
    snapshot = (await desk.do(CreateSnapshot(instance, "mine", ""))).output
    await desk.platform.executor.instances.start(instance, _principal(desk))
    await desk.do(StopInstance(instance))
    restored = (await desk.do(RestoreSnapshot(snapshot))).output
    async with desk.platform.executor.instances.use(restored, _principal(desk)) as (_, sandbox):
        assert await sandbox.read_file("/workspace/kept") == b"data"


async def test_checkpointed_command_tells_its_snapshot_in_the_receipt(desk):
    done = await desk.do(ExecuteAdvanced("", "img", ("echo", "x"), (), b"", "checkpointed", 0))
    assert done.output == b"x\n"
    snapshot = done.receipt.resource
    assert done.envelope.resource_key == resource_key_of(snapshot)
    child = await desk.do(ExecuteAdvanced(snapshot, "", ("echo", "y"), (), b"", "branched", 0))
    assert child.output == b"y\n"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _i, _s: START, id="start_instance"),
        pytest.param(lambda i, _s: CreateSnapshot(i, "n", ""), id="create_snapshot"),
        pytest.param(lambda _i, s: RestoreSnapshot(s), id="restore_snapshot"),
        pytest.param(lambda _i, s: CreateBranch(s, "n"), id="create_branch"),
        pytest.param(lambda i, _s: StopInstance(i), id="stop_instance"),
        pytest.param(lambda i, _s: PauseInstance(i), id="pause_instance"),
        pytest.param(lambda i, _s: ResumeInstance(i), id="resume_instance"),
        pytest.param(lambda i, _s: UploadFiles(i, "/w", _tar(a=b"1")), id="upload_files"),
        pytest.param(lambda _i, _s: ExecuteFunction("img", ("echo", "1"), (), b""), id="execute"),
        pytest.param(
            lambda _i, _s: ExecuteAdvanced("new", "img", ("pwd",), (), b"", "persistent", 0),
            id="execute_advanced",
        ),
    ],
)
async def test_job_that_ran_before_the_operator_was_killed_does_nothing_twice(desk, make):
    instance = await _instance(desk)
    snapshot = (await desk.do(CreateSnapshot(instance, "", ""))).output
    first = await desk.do(make(instance, snapshot))
    before = (len(_records(desk)), len(await _snapshots(desk)), await _ran(desk))
    await desk.restart()
    second = await desk.again(first.seen, first.job)
    assert second.output == first.output
    assert (len(_records(desk)), len(await _snapshots(desk))) == before[:2]
    assert await _ran(desk) == before[2]


async def _ran(desk):
    return len(await desk.platform.executor.list(_principal(desk)))


async def test_what_one_account_made_is_not_there_for_another(desk):
    instance = await _instance(desk)
    snapshot = (await desk.do(CreateSnapshot(instance, "", ""))).output
    for job in (
        StopInstance(instance),
        PauseInstance(instance),
        UploadFiles(instance, "/w", _tar(a=b"1")),
        CreateSnapshot(instance, "", ""),
        RestoreSnapshot(snapshot),
        CreateBranch(snapshot, ""),
        ExecuteAdvanced(snapshot, "", ("true",), (), b"", "branched", 0),
        _in(instance, "true"),
    ):
        refused = await desk.do(job, caller=MALLORY)
        assert refused.code in {"instance_not_found", "snapshot_not_found"}, job
    assert _state(desk, instance) is InstanceState.RUNNING


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (StartInstance("", "img", 0, 0, 0, enable_ssh=True), "unsupported"),
        (StartInstance("snap-x", "img", 0, 0, 0, enable_ssh=False), "invalid_argument"),
        (StartInstance("", "img", 4096, 0, 0, enable_ssh=False), "invalid_argument"),
        (StartInstance("", "img", 0, 2**32 - 1, 0, enable_ssh=False), "invalid_argument"),
        (CreateSnapshot("", "n", ""), "invalid_argument"),
        (CreateSnapshot("nobody", "n", ""), "instance_not_found"),
        (RestoreSnapshot(""), "invalid_argument"),
        (RestoreSnapshot("snap-none"), "snapshot_not_found"),
        (RestoreSnapshot("../../etc/passwd"), "snapshot_not_found"),
        (CreateBranch("snap-none", "b"), "snapshot_not_found"),
        (MergeBranches("snap-a", ("snap-b",), "guess"), "invalid_argument"),
        (MergeBranches("snap-a", ("snap-b",) * 16, "union"), "invalid_argument"),
        (MergeBranches("snap-a", ("snap-b",), ""), "snapshot_not_found"),
        (StopInstance("inst-none"), "instance_not_found"),
        (ResumeInstance(""), "invalid_argument"),
        (UploadFiles("inst-none", "relative", b""), "invalid_argument"),
        (UploadFiles("inst-none", "/w", b"no tar at all" * 50), "invalid_argument"),
        (ExecuteFunction("img", (), (), b""), "invalid_argument"),
        (ExecuteFunction("img", ("true",), ("novalue",), b""), "invalid_argument"),
        (ExecuteAdvanced("r", "img", ("true",), (), b"", "", 0), "invalid_argument"),
        (ExecuteAdvanced("", "img", ("true",), (), b"", "magic", 0), "invalid_argument"),
    ],
)
async def test_what_cannot_be_done_is_a_failure_with_its_code_and_a_receipt(desk, job, code):
    refused = await desk.do(job)
    assert refused.code == code
    assert refused.receipt.status is JobStatus.FAILED
    assert problems_of(refused.envelope) == []
    assert _records(desk) == []


async def test_port_is_exposed_for_its_owner_where_the_operator_has_a_door(desk):
    instance = await _instance(desk)
    refused = await desk.do(ExposePort(instance, 80, "http", ""))
    assert refused.code == "unsupported"
    desk.settings = replace(desk.settings, serves_ports=True)
    for job, code in (
        (ExposePort(instance, 80, "tcp", ""), {"unsupported", "invalid_argument"}),
        (ExposePort(instance, 0, "http", ""), {"invalid_argument"}),
        (ExposePort(instance, 80, "http", "../x"), {"invalid_argument"}),
        (ExposePort("inst-none", 80, "http", ""), {"instance_not_found"}),
    ):
        assert (await desk.do(job)).code in code
    assert (await desk.do(ExposePort(instance, 80, "http", ""), caller=MALLORY)).code == (
        "instance_not_found"
    )


async def test_too_many_instances_of_an_account_are_an_answer_and_no_endless_wait(tmp_path, desk):
    await desk.platform.executor.aclose()
    desk.platform = await desk.platform.reopen(instances_max=1)
    await _instance(desk)
    assert (await desk.do(START)).code == "quota_exceeded"
    assert (await desk.do(START, caller=MALLORY)).output


async def test_inputs_that_do_not_decode_get_the_same_bytes_from_every_operator(desk):
    from faas.chain.wallet import LocalWallet

    other = replace(desk, wallet=LocalWallet(bytes.fromhex("d4" * 32), chain_id=31337))
    for inputs, job in ((b"\xba\xd0", 0), (b"", 7), (bytes(32), 200)):
        seen = desk.seen(inputs, job=job)
        mine = await desk.runner.run(seen, seconds=10)
        assert mine == await other.runner.run(seen, seconds=99)
        assert (await desk.again(seen)).code == "invalid_argument"
