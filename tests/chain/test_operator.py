"""A real operator on a real node: jobs come back, whatever happens to the operator."""

import asyncio

import pytest
from tests.chain.operating import OperatorProcess, User

from faas.chain.codec import (
    CreateSnapshot,
    ExecuteFunction,
    JobKind,
    JobStatus,
    decode_failure,
    decode_output,
    encode_call,
)
from faas.chain.contract import Manager
from faas.chain.dev import deploy, dev_account, find_anvil, run_anvil


@pytest.fixture
async def chain(forge_build):
    """A node of its own: these tests turn its clock back, and operators share an account."""
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=1)


@pytest.fixture
async def user(chain):
    made = User(chain)
    yield made
    await made.node.aclose()


@pytest.fixture
async def operator(chain, tmp_path):
    made = OperatorProcess(chain, tmp_path)
    yield made
    await made.kill()


async def test_job_comes_back_with_what_the_command_wrote(operator, user):
    await operator.start()
    key = await user.echo("hello")
    job = await user.over(key)
    assert job.status is JobStatus.DONE, operator.said()
    [result] = await user.results(key)
    assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == b"hello\n"


async def test_what_cannot_be_done_is_answered_as_a_failure(operator, user):
    await operator.start()
    unreadable = await user.submit(b"\xba\xd0")
    failing = await user.submit(encode_call(ExecuteFunction("", ("exit", "3"), (), b"")))
    snapshot = await user.submit(encode_call(CreateSnapshot("nobody", "name", "")), job=2)
    codes = {}
    for key in (unreadable, failing, snapshot):
        assert (await user.over(key)).status is JobStatus.FAILED
        [result] = await user.results(key)
        codes[key] = decode_failure(result.output)[0]
    assert codes[unreadable] == "invalid_argument"
    assert codes[failing] in {"command_failed", "invalid_argument"}
    assert codes[snapshot] == "instance_not_found"


async def test_jobs_submitted_while_nobody_served_are_done_at_the_next_start(operator, user):
    keys = [await user.echo(f"n{index}") for index in range(5)]
    await operator.start()
    for index, key in enumerate(keys):
        assert (await user.over(key)).status is JobStatus.DONE, operator.said()
        [result] = await user.results(key)
        assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == f"n{index}\n".encode()


@pytest.mark.slow
async def test_operator_killed_again_and_again_loses_no_job_and_answers_none_twice(operator, user):
    keys = []
    for round_ in range(6):
        await operator.start()
        for index in range(4):
            keys.append(await user.echo(f"{round_}-{index}"))
            # Each round dies at another moment: at start-up, while it reads, runs, sends.
            await asyncio.sleep(0.13 * round_)
        await operator.kill()
    await operator.start()
    for index, key in enumerate(keys):
        assert (await user.over(key)).status is JobStatus.DONE, operator.said()
        [result] = await user.results(key)
        expected = f"{index // 4}-{index % 4}\n".encode()
        assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == expected


async def test_sigterm_says_draining_ends_what_runs_and_leaves(operator, user, chain):
    await operator.start()
    await user.over(await user.echo("warm"))
    key = await user.submit(encode_call(ExecuteFunction("", ("sleep", "1"), (), b"")))
    assert await operator.stop() == 0, operator.said()
    assert (await user.contracts.job(key)).status is JobStatus.DONE
    found = await user.contracts.ask_manager(Manager.OPERATORS, chain.operators[0].address)
    assert found[6], "it says that it drains"
    await operator.start()
    async with asyncio.timeout(30):
        while (await user.contracts.ask_manager(Manager.OPERATORS, chain.operators[0].address))[6]:
            await asyncio.sleep(0.05)


async def test_second_operator_with_the_same_key_is_refused(operator, user, tmp_path):
    second = OperatorProcess(operator.chain, tmp_path)
    second.log = tmp_path / "second.log"
    await operator.start()
    await user.over(await user.echo("warm"))
    await second.start("--data-dir", str(tmp_path / "other"))
    async with asyncio.timeout(30):
        assert await second.process.wait() == 5
    assert "another operator uses the key" in second.said()


async def test_reorg_under_a_settled_job_makes_the_operator_settle_it_again(operator, user):
    await operator.start()
    key = await user.echo("before")
    snapshot = await user.node.request("evm_snapshot")
    await user.over(key)
    await asyncio.sleep(0.6)
    await user.node.request("evm_revert", snapshot)
    for _ in range(6):
        await user.node.request("evm_mine")
    assert (await user.over(key)).status is JobStatus.DONE, operator.said()
    [result] = await user.results(key)
    assert decode_output(JobKind.EXECUTE_FUNCTION, result.output) == b"before\n"


async def test_operator_registers_itself_with_a_proof_of_its_key(operator, user, chain, tmp_path):
    newcomer = dev_account(12)
    path = tmp_path / "newcomer.key"
    path.write_text(newcomer.key)
    path.chmod(0o600)
    await operator.start("--key-file", str(path), "--register", "7")
    async with asyncio.timeout(30):
        while (await user.contracts.ask_manager(Manager.OPERATORS, newcomer.address))[1] != 7:
            await asyncio.sleep(0.05)
    # It serves no service yet, and says so instead of waiting in vain.
    async with asyncio.timeout(30):
        assert await operator.process.wait() == 2
    assert "membership" in operator.said()
