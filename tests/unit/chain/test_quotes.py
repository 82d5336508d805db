"""Slots kept for quotes: never more signatures out than slots, also over a restart or a reorg."""

import asyncio

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from faas.chain.contract import Tangle
from faas.chain.journal import Block, CallKey, Journal, SeenCall
from faas.chain.quote_book import SEEN_SECONDS
from faas.chain.quotes import QuoteDesk, QuoteSettings, Wish
from faas.clock import FakeClock
from faas.errors import ResourceExhaustedError, UnavailableError, UnsupportedError

CHAIN = 31337
TANGLE = "0x" + "Ab" * 20
USER = Account.from_key("0x" + "11" * 32)
OTHER = Account.from_key("0x" + "22" * 32)
SECONDS = 60


class _Contracts:
    tangle = TANGLE

    confidentiality = 0

    async def ask_tangle(self, function, *_arguments):
        if function is Tangle.GET_SERVICE:
            return (*[0] * 12, self.confidentiality)
        assert function in (Tangle.IS_SERVICE_OPERATOR, Tangle.IS_PERMITTED)
        return True


class _Signer:
    address = "0xMe"

    def __init__(self):
        self.signed = []
        self.is_down = False

    async def sign_typed(self, domain, types, value):
        if self.is_down:
            raise UnavailableError("the signer is away")
        self.signed.append(value)
        return b"signature %d" % len(self.signed)


class Desk:
    """A desk over a journal; `restart` opens both anew."""

    def __init__(self, path):
        self.path = path
        self.clock = FakeClock()
        self.signer = _Signer()
        self.contracts = _Contracts()
        self._open()

    def _open(self):
        self.journal = Journal(self.path, chain_id=CHAIN, manager="0x")
        self.desk = QuoteDesk(
            self.contracts,
            self.signer,
            QuoteSettings(capacity=5, seconds=SECONDS),
            self.journal.quotes,
            chain_id=CHAIN,
            load=self.journal.open_jobs,
            clock=self.clock,
        )

    def restart(self):
        self.journal.close()
        self._open()

    def now(self):
        return int(self.clock.now().timestamp())

    def wish(self, n=0, account=USER):
        wish = Wish(account.address, 0, 0, bytes([n]) * 32, self.now(), b"")
        message = encode_defunct(wish.digest(CHAIN, TANGLE))
        signature = bytes(account.sign_message(message).signature)
        return Wish(account.address, 0, 0, bytes([n]) * 32, self.now(), signature)

    async def quote(self, n=0, account=USER):
        return await self.desk.quote(self.wish(n, account))

    def see(self, n=0, *, call=0, block=1, is_quoted=True):
        seen = SeenCall(
            *(CallKey(0, call), 0, b"in", bytes([n]) * 32, 1 << 40, Block(block, bytes(32))),
            caller=USER.address,
            is_quoted=is_quoted,
        )
        self.journal.see([seen], head=Block(block, bytes(32)))


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "journal")
    yield made
    made.journal.close()


async def test_who_asks_again_gets_the_same_quote_and_takes_no_other_slot(desk):
    """Else a caller could collect a signature a second, and submit them all at once."""
    first = await desk.quote()
    for _ in range(5):
        await desk.clock.advance(1)
        assert await desk.quote() == first
    assert len(desk.signer.signed) == 1
    assert desk.desk.reserved == 1


async def test_restart_knows_every_slot_and_every_signature(desk):
    first = await desk.quote(0)
    for n in (1, 2, 3):
        await desk.quote(n)
    desk.restart()
    assert desk.desk.reserved == 4
    assert await desk.quote(0) == first
    with pytest.raises(ResourceExhaustedError, match="enough"):
        await desk.quote(4)
    await desk.quote(4, OTHER)
    with pytest.raises(ResourceExhaustedError, match="slot"):
        await desk.quote(5, OTHER)


async def test_killed_before_the_signature_was_kept_the_same_quote_is_signed_again(desk):
    desk.signer.is_down = True
    with pytest.raises(UnavailableError):
        await desk.quote()
    desk.restart()
    assert desk.desk.reserved == 1, "a signature may be out"
    desk.signer.is_down = False
    await desk.clock.advance(5)
    quote = await desk.quote()
    assert quote.timestamp == desk.now() - 5
    assert desk.desk.reserved == 1


async def test_used_quote_frees_its_slot_for_the_job_counts_itself(desk):
    await desk.quote()
    desk.see()
    assert desk.desk.reserved == 0
    assert desk.journal.open_jobs() == 1
    with pytest.raises(ResourceExhaustedError, match="just now"):
        await desk.quote()
    await desk.clock.advance(1)
    second = await desk.quote()
    assert second.timestamp == desk.now()
    assert desk.desk.reserved == 1


async def test_job_that_was_not_bought_uses_no_quote(desk):
    await desk.quote()
    desk.see(is_quoted=False)
    assert desk.desk.reserved == 1


async def test_reorg_that_takes_the_job_makes_its_quote_open_again(desk):
    first = await desk.quote()
    desk.see(block=7)
    desk.journal.rewind(6)
    assert desk.desk.reserved == 1
    assert await desk.quote() == first
    desk.see(block=7, call=3)
    assert desk.desk.reserved == 0


async def test_slot_is_kept_a_little_longer_than_the_quote(desk):
    """A quote used in its last second is seen later."""
    await desk.quote()
    await desk.clock.advance(SECONDS + SEEN_SECONDS - 1)
    assert desk.desk.reserved == 1
    await desk.clock.advance(1)
    assert desk.desk.reserved == 0


async def test_quote_that_is_about_to_expire_is_not_given_again(desk):
    await desk.quote()
    await desk.clock.advance(SECONDS - 5)
    with pytest.raises(ResourceExhaustedError) as raised:
        await desk.quote()
    assert raised.value.retry_after_seconds == 5
    await desk.clock.advance(5)
    await desk.quote()


async def test_callers_who_ask_at_once_share_the_slots(desk):
    async def ask(n, account):
        try:
            return await desk.quote(n, account)
        except ResourceExhaustedError:
            return None

    found = await asyncio.gather(
        *(ask(n, account) for n in range(4) for account in (USER, OTHER) for _ in range(2))
    )
    assert len({quote.wish for quote in found if quote}) == 5
    assert desk.desk.reserved == 5


async def test_prices_above_what_a_database_counts_are_kept_whole(desk):
    desk.desk._settings = QuoteSettings(capacity=5, price_wei=2**200)
    first = await desk.quote()
    desk.restart()
    assert (await desk.quote()).price == first.price == 2**200


async def test_service_that_wants_a_trusted_machine_gets_no_quote(desk):
    """Tangle would refuse it: the signature says what the operator has."""
    desk.contracts.confidentiality = 2
    with pytest.raises(UnsupportedError):
        await desk.quote()
