"""The key: who may read it, where a bare one is taken, and what a signature covers."""

import json

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from faas.chain.wallet import Fees, LocalWallet, Transaction, fields_of, open_wallet
from faas.errors import InvalidConfigError

KEY = "0x" + "17" * 32
ADDRESS = Account.from_key(KEY).address
TRANSACTION = Transaction("0x" + "0" * 39 + "1", b"data", 100_000, 7, Fees(10**9, 10**8))


@pytest.fixture
def key_file(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "key"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def wallet():
    return LocalWallet(bytes.fromhex(KEY[2:]), chain_id=31337)


def test_keystore_opens_with_its_password_only(key_file):
    path = key_file(json.dumps(Account.encrypt(KEY, "secret", kdf="pbkdf2", iterations=10)))
    assert open_wallet(path, "secret", chain_id=1).address == ADDRESS
    with pytest.raises(InvalidConfigError, match="wrong password"):
        open_wallet(path, "guess", chain_id=1)
    with pytest.raises(InvalidConfigError, match="needs a password"):
        open_wallet(path, None, chain_id=1)


def test_bare_key_is_taken_on_development_chains_only(key_file):
    path = key_file(KEY)
    assert open_wallet(path, None, chain_id=31337).address == ADDRESS
    with pytest.raises(InvalidConfigError, match="development chains only"):
        open_wallet(path, None, chain_id=1)


def test_key_that_others_may_read_is_refused(key_file):
    path = key_file(KEY, mode=0o640)
    with pytest.raises(InvalidConfigError, match="may be read by others"):
        open_wallet(path, None, chain_id=31337)


def test_nonsense_is_refused_without_being_quoted(key_file):
    with pytest.raises(InvalidConfigError) as raised:
        open_wallet(key_file("hunter2"), "x", chain_id=31337)
    assert "hunter2" not in str(raised.value)


async def test_same_transaction_gives_the_same_bytes_and_reads_back(wallet):
    signed = await wallet.sign(TRANSACTION)
    assert signed == await wallet.sign(TRANSACTION)
    assert wallet.read(signed) == TRANSACTION
    assert Account.recover_transaction(signed.raw) == ADDRESS


def test_raised_fees_replace_and_stop_at_the_cap():
    raised = Fees(100, 10).raised(20, to_at_most=200)
    assert raised == Fees(121, 13)
    assert Fees(190, 180).raised(20, to_at_most=200) == Fees(200, 200)


def test_key_proof_carries_the_key_and_a_signature(wallet):
    proof = wallet.key_proof(tangle="0x" + "1" * 40, blueprint=3)
    assert len(proof) == 130
    assert proof[:65] == wallet.public_key
    assert proof != wallet.key_proof(tangle="0x" + "1" * 40, blueprint=4)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x80", bytes(55), bytes(56), bytes(70_000)])
@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 2**40])
async def test_transactions_are_signed_byte_for_byte_as_eth_account_does(wallet, data, nonce):
    transaction = Transaction(ADDRESS, data, 100_000, nonce, Fees(10**9, 0))
    signed = await wallet.sign(transaction)
    theirs = Account.from_key(KEY).sign_transaction(fields_of(transaction, 31337))
    assert (signed.raw, signed.hash) == (bytes(theirs.raw_transaction), bytes(theirs.hash))
    assert wallet.read(signed) == transaction


def test_messages_are_signed_as_eth_account_does(wallet):
    for digest in (bytes(32), b"\xff" * 32, b"0123456789abcdef" * 2):
        theirs = Account.from_key(KEY).sign_message(encode_defunct(digest)).signature
        assert wallet.sign_digest(digest) == bytes(theirs)
