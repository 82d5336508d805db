"""`faas receipt`: a result off the chain, checked by another program without one."""

import asyncio
import json
import subprocess
import sys

import pytest
from tests.chain.operating import OperatorProcess, User

from faas.chain.codec import ExecuteFunction, encode_call
from faas.chain.dev import deploy, find_anvil, run_anvil


@pytest.fixture
async def chain(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        yield await deploy(url, operators=3)


async def _faas(*words):
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "faas", *words], capture_output=True, text=True
    )


async def test_receipts_of_three_operators_hold_agree_and_cannot_be_forged(chain, tmp_path):
    user = User(chain)
    operators = [OperatorProcess(chain, tmp_path, index) for index in range(3)]
    for each in operators:
        await each.start()
    files = []
    try:
        served = set()
        for _ in range(12):
            # Equals take turns, but who has not sent a heartbeat yet is passed over.
            key = await user.submit(encode_call(ExecuteFunction("", ("echo", "hi"), (), b"")))
            served_by = (await user.over(key)).operator
            if served_by in served:
                continue
            served.add(served_by)
            got = await _faas("receipt", "get", str(key.call), "--chain", str(_json(operators)))
            files.append(tmp_path / f"{key.call}.json")
            files[-1].write_text(got.stdout)
            if len(files) == 3:
                break
        missing = await _faas("receipt", "get", "99", "--chain", str(_json(operators)))
        assert missing.returncode == 4
    finally:
        for each in operators:
            await each.kill()
        await user.node.aclose()
    shown = await _faas("receipt", "verify", str(files[0]), "--json")
    assert json.loads(shown.stdout)["runtime"] == "fake"
    assert (await _faas("receipt", "compare", *map(str, files))).returncode == 0
    wrong = await _faas("receipt", "verify", str(files[0]), "--operator", chain.user.address)
    assert wrong.returncode == 10
    _forge(files[0])
    assert (await _faas("receipt", "verify", str(files[0]))).returncode == 10
    assert (await _faas("receipt", "compare", *map(str, files))).returncode == 10


def _json(operators):
    return operators[0].keys / "chain.json"


def _forge(path):
    told = json.loads(path.read_text())
    # "hi" in the output becomes "ho".
    assert told["result"].count(b"hi\n".hex()) == 1
    told["result"] = told["result"].replace(b"hi\n".hex(), b"ho\n".hex())
    path.write_text(json.dumps(told))
