"""Moves of many jobs in one commit: as durable as one by one, and each refused alone."""

import asyncio

import pytest

from faas.chain.group_commit import GroupCommit
from faas.chain.journal import Block, CallKey, JobState, Journal, SeenCall
from faas.errors import WrongStateError

BLOCK = Block(1, bytes(32))


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "journal", chain_id=1, manager="0x1")
    made.see([SeenCall(CallKey(0, n), 0, b"", bytes(32), 9, BLOCK) for n in range(4)], head=BLOCK)
    yield made
    made.close()


async def test_moves_are_stored_when_the_mover_goes_on(journal):
    group = GroupCommit(journal)
    await asyncio.gather(*(group.move(CallKey(0, n), JobState.RUNNING) for n in range(4)))
    assert journal.counts() == {JobState.RUNNING: 4}
    await group.move(CallKey(0, 1), JobState.RAN, result=b"out")
    assert journal.get(CallKey(0, 1)).result == b"out"


async def test_illegal_move_is_refused_alone(journal):
    group = GroupCommit(journal)
    good, bad = await asyncio.gather(
        group.move(CallKey(0, 0), JobState.RUNNING),
        group.move(CallKey(0, 1), JobState.RAN, result=b"out"),
        return_exceptions=True,
    )
    assert good is None
    assert isinstance(bad, WrongStateError)
    assert journal.counts() == {JobState.RUNNING: 1, JobState.SEEN: 3}


async def test_mover_that_was_cancelled_leaves_nothing_behind(journal):
    group = GroupCommit(journal, seconds=60)
    await asyncio.wait_for(_moved(group, CallKey(0, 0), JobState.RUNNING), 10)
    mover = asyncio.ensure_future(group.move(CallKey(0, 0), JobState.RAN, result=b"stale"))
    await asyncio.sleep(0)
    mover.cancel()
    await asyncio.gather(mover, return_exceptions=True)
    group.flush()
    assert journal.get(CallKey(0, 0)).state is JobState.RUNNING


async def test_journal_that_fails_fails_every_mover(journal, monkeypatch):
    def broken(_moves):
        raise OSError("disk full")

    monkeypatch.setattr(journal, "move_each", broken)
    group = GroupCommit(journal)
    moves = (group.move(CallKey(0, n), JobState.RUNNING) for n in range(2))
    found = await asyncio.gather(*moves, return_exceptions=True)
    assert [type(each) for each in found] == [OSError, OSError]


async def _moved(group, key, to):
    mover = asyncio.ensure_future(group.move(key, to))
    await asyncio.sleep(0)
    group.flush()
    await mover
