"""The jobs through a real chain, a real operator and real sandboxes: each does what it is named."""

import asyncio
import io
import tarfile
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.chain.operating import OperatorProcess, User

from faas.chain.carried import Reference, pack, unpack
from faas.chain.codec import (
    CreateBranch,
    CreateSnapshot,
    ExecuteAdvanced,
    ExecuteFunction,
    ExposePort,
    MergeBranches,
    PauseInstance,
    RestoreSnapshot,
    ResumeInstance,
    StartInstance,
    StopInstance,
    UploadFiles,
    decode_failure,
    encode_call,
)
from faas.chain.dev import deploy, find_anvil, run_anvil
from faas.chain.receipts import decode_receipt, problems_of

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(240)]


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.fixture
async def user(chain):
    made = User(chain)
    yield made
    await made.node.aclose()


@pytest.fixture
async def operator(chain, tmp_path):
    made = OperatorProcess(chain, tmp_path, runtime="embedded")
    await made.start(
        *("--job-store", f"file://{tmp_path}/shared", "--ports-port", "0"),
        *("--set", "pool_size=1"),
    )
    yield made
    await made.stop()
    await made.kill()


def _tar(name, content):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _sh(instance, script, mode="persistent"):
    return ExecuteAdvanced(instance, "", ("sh", "-c", script), (), b"", mode, 0)


async def test_commands_run_with_their_payload_and_large_output_goes_by_reference(
    operator, user, tmp_path
):
    done = await user.outcome(ExecuteFunction("", ("sh", "-c", "echo $A; cat"), ("A=1",), b"in"))
    receipt = decode_receipt(done.receipt).receipt
    assert problems_of(done) == []
    assert receipt.operator == user.chain.operators[0].address
    assert receipt.runtime == "embedded"
    assert receipt.image_digest
    assert await user.do(ExecuteFunction("", ("sh", "-c", "echo $A; cat"), ("A=1",), b"in")) == (
        b"1\nin"
    )
    large = await user.do(ExecuteFunction("", ("head", "-c", "100000", "/dev/zero"), (), b""))
    reference = unpack(large)
    assert isinstance(reference, Reference)
    assert reference.size_bytes == 100_000
    again = ExecuteFunction("", ("sha256sum",), (), pack(reference))
    assert (await user.do(again)).split()[0] == reference.sha256.hex().encode()


async def test_instances_snapshots_branches_and_merges_are_real(operator, user):
    instance = await user.do(StartInstance("", "", 1, 256, 0, enable_ssh=False))
    assert await user.do(UploadFiles(instance, "/workspace", _tar("base", b"0"))) == 1
    assert await user.do(_sh(instance, "cat /workspace/base")) == b"0"
    base = await user.do(CreateSnapshot(instance, "base", ""))
    heads = []
    for name in ("left", "right"):
        branch = await user.do(CreateBranch(base, name))
        done = await user.outcome(_sh(branch, f"echo {name} > /workspace/{name}", "checkpointed"))
        heads.append(decode_receipt(done.receipt).receipt.resource)
    merged = await user.do(MergeBranches(heads[0], (heads[1],), "union"))
    restored = await user.do(RestoreSnapshot(merged))
    said = await user.do(_sh(restored, "cd /workspace; cat base left right"))
    assert said == b"0left\nright\n"


async def test_paused_instance_goes_on_where_it_was_and_a_stopped_one_is_stopped(operator, user):
    instance = await user.do(StartInstance("", "", 0, 0, 0, enable_ssh=False))
    await user.do(_sh(instance, "echo kept > /workspace/f"))
    checkpoint = await user.do(PauseInstance(instance))
    refused = await user.outcome(_sh(instance, "true"))
    assert decode_failure(refused.output)[0] == "wrong_state"
    assert await user.do(ResumeInstance(checkpoint)) == instance
    assert await user.do(_sh(instance, "cat /workspace/f")) == b"kept\n"
    assert await user.do(StopInstance(instance)) is True
    refused = await user.outcome(_sh(instance, "true"))
    assert decode_failure(refused.output)[0] == "wrong_state"


async def test_instance_outlives_a_killed_operator_and_is_still_its_owners(operator, user):
    instance = await user.do(StartInstance("", "", 0, 0, 0, enable_ssh=False))
    await user.do(_sh(instance, "echo kept > /workspace/f"))
    await operator.kill()
    waiting = await user.submit(encode_call(_sh(instance, "cat /workspace/f")), job=1)
    await operator.start()
    await user.over(waiting)
    [done] = await user.results(waiting)
    assert b"kept" in done.output


async def test_exposed_port_answers_at_the_address_that_the_job_gives(operator, user):
    instance = await user.do(StartInstance("", "", 0, 0, 0, enable_ssh=False))
    await user.do(_sh(instance, "echo hello > /workspace/index.html"))
    serve = "cd /workspace; setsid python3 -m http.server 8000 >/dev/null 2>&1 & sleep 2"
    await user.do(_sh(instance, serve))
    url = await user.do(ExposePort(instance, 8000, "http", ""))
    host = urlsplit(url).hostname

    async def ask(path):
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(
                f"http://127.0.0.1:{urlsplit(url).port}{path}", headers={"host": host}
            ) as answer,
        ):
            return answer.status, await answer.text()

    token = f"?{urlsplit(url).query}"
    async with asyncio.timeout(60):
        while (found := await ask(f"/index.html{token}"))[1] != "hello\n":
            await asyncio.sleep(0.5)
    assert found[0] == 200
    assert (await ask("/index.html"))[0] in {401, 403}
