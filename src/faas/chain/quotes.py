"""Quotes: for which price this operator takes a job, signed for Tangle's `submitJobFromQuote`.

A quote is the operator's consent, and the contract asks no further. So it is given only to a
permitted caller who signs for the wish, for a job this operator does, and while a slot is free; the
slot is kept until the quote expires.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from eth_abi.abi import encode
from eth_hash.auto import keccak

from faas.chain.codec import JobKind
from faas.chain.contract import Contracts, Tangle
from faas.chain.handlers import HANDLERS
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


@dataclass(frozen=True, slots=True)
class Quote:
    """Tangle's `JobQuoteDetails`, and the operator's signature."""

    requester: str
    service: int
    job: int
    price: int
    timestamp: int
    expiry: int
    confidentiality: int
    inputs_hash: bytes
    signature: bytes
    operator: str


_Key = tuple[str, int, int, bytes]


class QuoteDesk:
    """Gives quotes while there is room. What it reserved is forgotten by a restart: then a few jobs
    more than the capacity may come, and wait."""

    def __init__(
        self,
        contracts: Contracts,
        signer: TypedSigner,
        settings: QuoteSettings,
        *,
        chain_id: int,
        load: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._contracts = contracts
        self._signer = signer
        self._settings = settings
        self._chain_id = chain_id
        self._load = load
        self._clock = clock
        self._reserved: dict[_Key, int] = {}
        self.is_open = True
        self.given = 0
        self.refused = 0

    async def quote(self, wish: Wish) -> Quote:
        """Sign for a price.

        Raises:
            FaasError: why not.
        """
        try:
            self._check(wish)
            await self._check_service(wish)
            key = self._reserve(wish)
        except Exception:
            self.refused += 1
            raise
        try:
            quote = await self._signed(wish, self._reserved[key])
        except BaseException:
            self._reserved.pop(key, None)
            raise
        self.given += 1
        return quote

    @property
    def reserved(self) -> int:
        """Slots that are kept for quotes now."""
        self._forget_old()
        return len(self._reserved)

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
        if not await ask(Tangle.IS_PERMITTED, wish.service, wish.requester):
            raise PermissionDeniedError("the service does not permit this caller")

    def _reserve(self, wish: Wish) -> _Key:
        """Take a slot; nothing waits in here."""
        self._forget_old()
        key = (wish.requester, wish.service, wish.job, wish.inputs_hash)
        expiry = self._now() + self._settings.seconds
        own = sum(each[0] == wish.requester for each in self._reserved)
        if self._reserved.get(key) == expiry:
            raise ResourceExhaustedError("that was quoted just now", retry_after_seconds=1.0)
        if key not in self._reserved:
            if own >= self._settings.of_one_requester_max:
                raise ResourceExhaustedError("this caller has open quotes enough")
            if self._load() + len(self._reserved) >= self._settings.capacity:
                raise ResourceExhaustedError("no slot is free")
        self._reserved[key] = expiry
        return key

    async def _signed(self, wish: Wish, expiry: int) -> Quote:
        price = self._settings.price_of(wish.job)
        timestamp = expiry - self._settings.seconds
        value: dict[str, Any] = {
            "requester": wish.requester,
            "serviceId": wish.service,
            "jobIndex": wish.job,
            "price": price,
            "timestamp": timestamp,
            "expiry": expiry,
            "confidentiality": 0,
            "inputsHash": wish.inputs_hash,
        }
        domain = {
            "name": "TangleQuote",
            "version": "1",
            "chainId": self._chain_id,
            "verifyingContract": self._contracts.tangle,
        }
        signature = await self._signer.sign_typed(domain, _TYPES, value)
        return Quote(
            *(wish.requester, wish.service, wish.job, price, timestamp, expiry, 0),
            *(wish.inputs_hash, signature, self._signer.address),
        )

    def _forget_old(self) -> None:
        now = self._now()
        self._reserved = {key: until for key, until in self._reserved.items() if until > now}

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
