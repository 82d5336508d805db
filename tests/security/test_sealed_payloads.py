"""Who copies a sealed payload from the public chain learns nothing with it."""

import asyncio
from dataclasses import replace

import pytest
from tests.unit.chain.desk import ALICE, CHAIN, MALLORY, MANAGER, Desk

from faas.chain.carried import Sealed, pack
from faas.chain.codec import ExecuteAdvanced, ExecuteFunction
from faas.chain.sealing import Context, Secrets, seal_secrets
from faas.clock import FakeClock
from faas.executor.fake import FakePlatform
from faas.sandbox.fake import FakeHost

DEPLOY = ExecuteFunction("img", ("true",), (), b"")


@pytest.fixture
async def desk(tmp_path):
    made = Desk(await FakePlatform(tmp_path, FakeHost(FakeClock())).start())
    yield made
    await made.platform.executor.aclose()
    await made.platform.runtime.reclaim(keep=frozenset())
    await asyncio.sleep(0)


@pytest.fixture
def box(desk):
    context = Context(CHAIN, MANAGER, 0, ALICE).of(DEPLOY)
    secret = Secrets(("TOKEN=hunter2",), b"hunter2")
    return pack(Sealed(seal_secrets(secret, [desk.wallet.public_key], context)))


async def test_owner_of_the_box_uses_it(desk, box):
    assert (await desk.do(replace(DEPLOY, payload=box))).output == b""


async def test_copied_box_does_not_open_for_another_caller(desk, box):
    stolen = await desk.do(replace(DEPLOY, payload=box), caller=MALLORY)
    assert stolen.code == "invalid_argument"


@pytest.mark.parametrize(
    "prints",
    [
        ExecuteFunction("img", ("cat",), (), b""),
        ExecuteFunction("other", ("true",), (), b""),
        ExecuteFunction("img", ("true",), ("LD_PRELOAD=/x",), b""),
        ExecuteAdvanced("", "img", ("true",), (), b"", "", 0),
    ],
)
async def test_box_does_not_open_under_another_command(desk, box, prints):
    stolen = await desk.do(replace(prints, payload=box))
    assert stolen.code == "invalid_argument"
    assert "hunter2" not in str(stolen.failure)


async def test_box_of_another_service_does_not_open(desk):
    context = Context(CHAIN, MANAGER, 1, ALICE).of(DEPLOY)
    box = pack(Sealed(seal_secrets(Secrets(), [desk.wallet.public_key], context)))
    assert (await desk.do(replace(DEPLOY, payload=box))).code == "invalid_argument"
