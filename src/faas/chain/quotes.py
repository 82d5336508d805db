"""Quotes: for which price this operator takes a job, signed for Tangle's `submitJobFromQuote`.

A quote is the operator's consent, and the contract asks no further. So it is given only to a
permitted caller who signs for the wish, for a job this operator does, and while a slot is free; the
slot is kept until the quote expires or its job is seen, also over a restart (`quote_book`). One
wish has one open quote: whoever asks again gets the same, for else a caller could collect more
signatures than there are slots.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from eth_abi.abi import encode
from eth_hash.auto import keccak

from faas.chain.codec import JobKind
from faas.chain.contract import Contracts, Tangle
from faas.chain.handlers import HANDLERS
from faas.chain.quote_book import Quote, QuoteBook
from faas.chain.signatures import signer_of_message
from faas.clock import Clock
from faas.errors import (
    DataLossError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnsupportedError,
    WrongStateError,
)

_WISH: Final = keccak(b"FaaSQuoteRequest.v1")
_WISH_SECONDS_MAX: Final = 300
_PRICE_MIN: Final = 100
"""Tangle takes no price between zero and this."""
CONFIDENTIALITY: Final = 0
"""Any: what Tangle calls a job that asks for no trusted machine."""
_USEFUL_SHARE: Final = 6
"""A quote with less than a sixth of its time left may be late before it is mined."""
_TYPES: Final[dict[str, list[dict[str, str]]]] = {
    "JobQuoteDetails": [
        {"name": "requester", "type": "address"},
        {"name": "serviceId", "type": "uint64"},
        {"name": "jobIndex", "type": "uint8"},
        {"name": "price", "type": "uint256"},
        {"name": "timestamp", "type": "uint64"},
        {"name": "expiry", "type": "uint64"},
        {"name": "confidentiality", "type": "uint8"},
        {"name": "inputsHash", "type": "bytes32"},
    ]
}


class TypedSigner(Protocol):
    """Signs typed data for an account."""

    @property
    def address(self) -> str:
        """The account."""
        ...

    async def sign_typed(
        self, domain: Mapping[str, Any], types: Mapping[str, Any], value: Mapping[str, Any]
    ) -> bytes:
        """Sign typed data (EIP-712); 65 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class QuoteSettings:
    """For what, and for how much."""

    capacity: int
    price_wei: int = 0
    prices_wei: Mapping[int, int] = field(default_factory=dict[int, int])
    """By job, where it is another."""
    seconds: int = 60
    """How long a quote holds, and a slot is kept."""
    of_one_requester_max: int = 4
    refused: frozenset[int] = frozenset()
    """Jobs that this operator would answer with `unsupported`."""

    def price_of(self, job: int) -> int:
        """The price of a job."""
        return self.prices_wei.get(job, self.price_wei)


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants which job done, signed by them."""

    requester: str
    service: int
    job: int
    inputs_hash: bytes
    timestamp: int
    signature: bytes

    def digest(self, chain_id: int, tangle: str) -> bytes:
        """What the requester signs, as a personal message."""
        return keccak(
            encode(
                ("bytes32", "uint64", "address", "uint64", "uint8", "bytes32", "uint64"),
                (
                    *(_WISH, chain_id, tangle, self.service, self.job),
                    *(self.inputs_hash, self.timestamp),
                ),
            )
        )


class QuoteDesk:
    """Gives quotes while there is room."""

    def __init__(
        self,
        contracts: Contracts,
        signer: TypedSigner,
        settings: QuoteSettings,
        book: QuoteBook,
        *,
        chain_id: int,
        load: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._contracts = contracts
        self._signer = signer
        self._settings = settings
        self._book = book
        self._chain_id = chain_id
        self._load = load
        self._clock = clock
        self.is_open = True
        self.given = 0
        self.refused = 0

    @property
    def operator(self) -> str:
        """Who signs."""
        return self._signer.address

    async def quote(self, wish: Wish) -> Quote:
        """Sign for a price.

        Raises:
            FaasError: why not.
        """
        try:
            self._check(wish)
            await self._check_service(wish)
            quote = self._kept(wish)
        except Exception:
            self.refused += 1
            raise
        if not quote.signature:
            quote = self._book.signed(quote, await self._signature(quote))
        self.given += 1
        return quote

    @property
    def reserved(self) -> int:
        """Slots that are kept for quotes now."""
        return self._book.slots(self._now())

    def _check(self, wish: Wish) -> None:
        if not self.is_open:
            raise WrongStateError("this operator takes no more jobs")
        if wish.job not in {int(kind) for kind in HANDLERS} - self._settings.refused:
            name = JobKind(wish.job).name.lower() if wish.job in list(JobKind) else str(wish.job)
            raise UnsupportedError(f"this operator does not do {name}")
        if abs(self._now() - wish.timestamp) > _WISH_SECONDS_MAX:
            raise InvalidArgumentError("the request was signed at another time")
        digest = wish.digest(self._chain_id, self._contracts.tangle)
        try:
            signer = signer_of_message(digest, wish.signature)
        except DataLossError as failure:
            raise InvalidArgumentError("the signature cannot be read") from failure
        if signer != wish.requester:
            raise PermissionDeniedError("the request was not signed by its requester")

    async def _check_service(self, wish: Wish) -> None:
        ask = self._contracts.ask_tangle
        if not await ask(Tangle.IS_SERVICE_OPERATOR, wish.service, self._signer.address):
            raise InvalidArgumentError("this operator does not serve that service")
        if (await ask(Tangle.GET_SERVICE, wish.service))[12] != CONFIDENTIALITY:
            raise UnsupportedError("this operator has no trusted machine, which the service wants")
        if not await ask(Tangle.IS_PERMITTED, wish.service, wish.requester):
            raise PermissionDeniedError("the service does not permit this caller")

    def _kept(self, wish: Wish) -> Quote:
        """Find the open quote for a wish, or take a slot for one; nothing waits in here."""
        now, seconds = self._now(), self._settings.seconds
        known = self._book.newest((wish.requester, wish.service, wish.job, wish.inputs_hash))
        if known is not None and self._book.is_open(known, now):
            left = known.expiry - now
            if left * _USEFUL_SHARE < seconds:
                raise ResourceExhaustedError(
                    "the open quote for that is about to expire", retry_after_seconds=float(left)
                )
            return known
        if known is not None and known.timestamp >= now:
            # It would be the same quote, which Tangle has taken.
            raise ResourceExhaustedError("that was quoted just now", retry_after_seconds=1.0)
        if self._book.slots(now, requester=wish.requester) >= self._settings.of_one_requester_max:
            raise ResourceExhaustedError("this caller has open quotes enough")
        if self._load() + self._book.slots(now) >= self._settings.capacity:
            raise ResourceExhaustedError("no slot is free")
        price = self._settings.price_of(wish.job)
        quote = Quote(
            *(wish.requester, wish.service, wish.job, wish.inputs_hash),
            *(now, now + seconds, price),
        )
        self._book.trim(now)
        self._book.keep(quote)
        return quote

    async def _signature(self, quote: Quote) -> bytes:
        value: dict[str, Any] = {
            "requester": quote.requester,
            "serviceId": quote.service,
            "jobIndex": quote.job,
            "price": quote.price,
            "timestamp": quote.timestamp,
            "expiry": quote.expiry,
            "confidentiality": CONFIDENTIALITY,
            "inputsHash": quote.inputs_hash,
        }
        domain = {
            "name": "TangleQuote",
            "version": "1",
            "chainId": self._chain_id,
            "verifyingContract": self._contracts.tangle,
        }
        return await self._signer.sign_typed(domain, _TYPES, value)

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


def check_prices(settings: QuoteSettings) -> None:
    """Refuse prices that Tangle does not take.

    Raises:
        InvalidArgumentError: one is between 1 and 99 wei, or negative.
    """
    for price in (settings.price_wei, *settings.prices_wei.values()):
        if price < 0 or 0 < price < _PRICE_MIN:
            raise InvalidArgumentError(f"a price is 0 or at least {_PRICE_MIN} wei, not {price}")
