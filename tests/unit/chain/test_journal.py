"""The operator's memory: nothing lost, nothing done twice, reorgs survived."""

import sqlite3

import pytest

from faas.chain.journal import (
    BLOCKS_KEPT,
    Block,
    CallKey,
    JobState,
    Journal,
    SeenCall,
    SignedTransaction,
)
from faas.errors import InvalidConfigError, WrongStateError

MANAGER = "0xAb" + "00" * 19
KEY = CallKey(0, 7)
SIGNED = SignedTransaction(nonce=3, raw=b"raw", hash=b"h" * 32)


def _block(number: int, fork: bytes = b"a") -> Block:
    return Block(number, fork * 32)


def _call(key: CallKey = KEY, *, inputs: bytes = b"in", block: int = 10, deadline: int = 100):
    return SeenCall(key, 0, inputs, inputs.ljust(32, b"#"), deadline, _block(block))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    made = Journal(path, chain_id=31337, manager=MANAGER)
    yield made
    made.close()


def _state(journal: Journal, key: CallKey = KEY) -> JobState:
    entry = journal.get(key)
    assert entry is not None
    return entry.state


def test_calls_and_cursor_are_taken_together(journal):
    assert journal.head() is None
    journal.see([_call()], head=_block(12))
    assert journal.head() == _block(12)
    assert [entry.seen for entry in journal.in_state(JobState.SEEN)] == [_call()]


def test_second_sight_of_a_call_is_no_work(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.see([_call()], head=_block(11))
    assert _state(journal) is JobState.RAN


def test_failed_sight_moves_neither_calls_nor_cursor(journal):
    journal.see([], head=_block(9))
    broken = _call(CallKey(0, 8))
    object.__setattr__(broken, "inputs", None)
    with pytest.raises(sqlite3.IntegrityError):
        journal.see([_call(), broken], head=_block(10))
    assert journal.get(KEY) is None
    assert journal.head() == _block(9)


def test_everything_survives_a_restart(journal, path):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.sending([KEY], SIGNED)
    again = Journal(path, chain_id=31337, manager=MANAGER.lower())
    try:
        [entry] = again.in_state(JobState.SENT)
        assert entry.result == b"result"
        assert entry.transaction_hash == SIGNED.hash
        assert again.transaction(SIGNED.hash) == SIGNED
        assert again.head() == _block(10)
    finally:
        again.close()


@pytest.mark.parametrize(("chain_id", "manager"), [(1, MANAGER), (31337, "0x" + "22" * 20)])
def test_journal_of_another_chain_or_manager_is_refused(journal, path, chain_id, manager):
    with pytest.raises(InvalidConfigError, match="31337"):
        Journal(path, chain_id=chain_id, manager=manager)


def test_interrupted_run_runs_again(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.interrupted(KEY)
    assert _state(journal) is JobState.SEEN


def test_lost_transaction_leaves_the_stored_result_to_send(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.sending([KEY], SIGNED)
    journal.unsent([KEY])
    [entry] = journal.in_state(JobState.RAN)
    assert entry.result == b"result"


def test_ends_are_ends(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.sending([KEY], SIGNED)
    journal.confirmed([KEY])
    for move in (
        lambda: journal.started(KEY),
        lambda: journal.ran(KEY, b"other"),
        lambda: journal.sending([KEY], SIGNED),
        lambda: journal.rejected(KEY, "late"),
        lambda: journal.expired(KEY, "late"),
    ):
        with pytest.raises(WrongStateError):
            move()
    assert _state(journal) is JobState.CONFIRMED


def test_refused_batch_moves_none_of_its_calls(journal):
    other = CallKey(0, 8)
    journal.see([_call(), _call(other)], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    with pytest.raises(WrongStateError, match="0/8 is seen"):
        journal.sending([KEY, other], SIGNED)
    assert _state(journal) is JobState.RAN
    assert journal.transaction(SIGNED.hash) is None


def test_unknown_call_is_refused(journal):
    with pytest.raises(WrongStateError, match="not here"):
        journal.started(KEY)


def test_reorg_drops_what_it_took_and_keeps_the_rest(journal):
    early = CallKey(0, 6)
    journal.see([_call(early, block=9), _call(block=10)], head=_block(10))
    assert journal.rewind(9) == [KEY]
    assert _state(journal) is JobState.DROPPED
    assert _state(journal, early) is JobState.SEEN


def test_call_that_comes_back_unchanged_keeps_its_result_and_its_transaction(journal):
    journal.see([_call(), _call(CallKey(0, 8))], head=_block(10))
    for key in (KEY, CallKey(0, 8)):
        journal.started(key)
        journal.ran(key, b"result")
    journal.sending([KEY], SIGNED)
    journal.rewind(9)
    journal.see([_call(block=11), _call(CallKey(0, 8), block=11)], head=_block(11, b"b"))
    [sent] = journal.in_state(JobState.SENT)
    assert (sent.result, sent.transaction_hash) == (b"result", SIGNED.hash)
    [waiting] = journal.in_state(JobState.RAN)
    assert (waiting.result, waiting.transaction_hash) == (b"result", None)


def test_number_that_comes_back_with_other_inputs_is_another_call(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.rewind(9)
    journal.see([_call(inputs=b"other", block=11)], head=_block(11, b"b"))
    [entry] = journal.in_state(JobState.SEEN)
    assert (entry.seen.inputs, entry.result) == (b"other", None)


def test_confirmed_result_can_be_undone_by_a_reorg(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.confirmed([KEY])
    assert journal.rewind(9) == [KEY]


def test_nearest_deadline_comes_first(journal):
    calls = [_call(CallKey(0, n), deadline=100 - n) for n in range(3)]
    journal.see(calls, head=_block(10))
    assert [entry.seen.key.call for entry in journal.in_state(JobState.SEEN)] == [2, 1, 0]
    assert len(journal.in_state(JobState.SEEN, limit=2)) == 2


def test_hashes_are_kept_for_a_bounded_depth(journal):
    for number in range(BLOCKS_KEPT + 5):
        journal.see([], head=_block(number))
    assert journal.block_hash(4) is None
    assert journal.block_hash(5) == b"a" * 32


def test_result_accepted_above_a_reorg_counts_as_sent_again(journal):
    journal.see([_call(block=10)], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.sending([KEY], SIGNED)
    assert journal.nonces_in_flight() == {SIGNED.nonce}
    journal.confirmed([KEY], block=14)
    assert journal.nonces_in_flight() == set()
    assert journal.rewind(12) == []
    assert _state(journal) is JobState.SENT
    assert journal.counts() == {JobState.SENT: 1}
    journal.confirmed([KEY], block=12)
    journal.rewind(12)
    assert _state(journal) is JobState.CONFIRMED


def test_batch_with_a_call_that_a_reorg_took_is_given_up_as_a_whole(journal):
    below, above = CallKey(0, 1), CallKey(0, 2)
    journal.see([_call(below, block=10), _call(above, block=12)], head=_block(12))
    for key in (below, above):
        journal.started(key)
        journal.ran(key, b"result")
    journal.sending([below, above], SIGNED)
    assert journal.abandoned(SIGNED.nonce) == []
    assert journal.rewind(11) == [above]
    assert _state(journal, below) is JobState.RAN
    assert journal.abandoned(SIGNED.nonce) == [SIGNED]
    assert journal.abandoned(SIGNED.nonce + 1) == [], "it was mined: nothing can be undone"


def test_job_passed_on_above_a_reorg_is_ours_again(journal):
    journal.see([_call(block=10)], head=_block(12))
    journal.expired(KEY, "passed on", block=12)
    journal.rewind(11)
    assert _state(journal) is JobState.SEEN


def test_ended_jobs_are_forgotten_after_their_time_and_open_ones_never(journal):
    calls = [_call(CallKey(0, n), deadline=100 + n) for n in range(4)]
    journal.see(calls, head=_block(10))
    for n in (0, 1, 3):
        journal.started(CallKey(0, n))
        journal.ran(CallKey(0, n), b"r")
    journal.sending([CallKey(0, 0), CallKey(0, 1)], SIGNED)
    journal.confirmed([CallKey(0, 0)], block=11)
    journal.confirmed([CallKey(0, 1)], block=11)
    assert journal.trim(deadline_before=101) == 1
    assert journal.get(CallKey(0, 0)) is None
    assert journal.transaction(SIGNED.hash) is not None, "another job is in it"
    assert journal.trim(deadline_before=10**9) == 1
    assert {_state(journal, CallKey(0, n)) for n in (2, 3)} == {JobState.SEEN, JobState.RAN}


def test_transactions_of_no_job_go_when_many_came_after_them(journal):
    journal.see([_call()], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"r")
    for nonce in (3, 2000):
        journal.sending([KEY], SignedTransaction(nonce, b"raw", bytes([nonce % 256]) * 32))
    journal.trim(deadline_before=0)
    assert journal.transaction(bytes([3]) * 32) is None
    assert journal.transaction(bytes([2000 % 256]) * 32) is not None


def test_same_inputs_of_another_caller_are_another_job(journal):
    from dataclasses import replace

    mine = replace(_call(), caller="0xA")
    journal.see([mine], head=_block(10))
    journal.started(KEY)
    journal.ran(KEY, b"result")
    journal.rewind(9)
    journal.see([replace(mine, caller="0xB", block=_block(10, b"b"))], head=_block(10, b"b"))
    assert _state(journal) is JobState.SEEN
    assert journal.get(KEY).result is None


def test_journal_of_an_older_version_is_taken_over(path):
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE jobs (service INTEGER NOT NULL, call INTEGER NOT NULL, job INTEGER NOT NULL,"
        " inputs BLOB NOT NULL, inputs_hash BLOB NOT NULL, deadline INTEGER NOT NULL,"
        " block_number INTEGER NOT NULL, block_hash BLOB NOT NULL, state TEXT NOT NULL,"
        " result BLOB, transaction_hash BLOB, reason TEXT, settled INTEGER,"
        " PRIMARY KEY (service, call))"
    )
    row = (0, 7, 0, b"in", bytes(32), 100, 10, bytes(32), "seen", None, None, None, None)
    database.execute(f"INSERT INTO jobs VALUES ({','.join('?' * len(row))})", row)
    database.commit()
    database.close()
    journal = Journal(path, chain_id=31337, manager=MANAGER)
    entry = journal.get(KEY)
    assert entry.seen.caller == ""
    journal.close()
