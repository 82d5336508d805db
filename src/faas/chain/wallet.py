"""The operator's key: what signs, and what a signed transaction is made of.

The key is the one that stands for the stake, so it is read from an encrypted keystore (v3) that
nobody else may read; a bare key is taken on development chains only; `remote_wallet` leaves it in
another process. Nonces are the sender's.

Signed by libsecp256k1 and RLP directly: eth-account takes half a second to import pairings and
schemas that nobody here uses. It is loaded for keystores and typed data alone.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import rlp  # pyright: ignore[reportMissingTypeStubs]
from coincurve import PrivateKey
from eth_abi.abi import encode
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.journal import SignedTransaction
from faas.chain.signatures import message_hash
from faas.errors import InvalidConfigError

DEVELOPMENT_CHAINS: Final = frozenset({1337, 31337})
_BARE_KEY_DIGITS: Final = 64
_TYPE: Final = b"\x02"
"""Transactions of EIP-1559."""


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers for each gas, in wei."""

    max_fee: int
    priority_fee: int

    def raised(self, percent: int, *, to_at_most: int) -> "Fees":
        """Offer more, but never above the cap; nodes want 10 % to replace a transaction."""
        return Fees(
            min(self.max_fee * (100 + percent) // 100 + 1, to_at_most),
            min(self.priority_fee * (100 + percent) // 100 + 1, to_at_most),
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is to be signed."""

    to: str
    data: bytes
    gas: int
    nonce: int
    fees: Fees


class Wallet(Protocol):
    """Signs for one account on one chain."""

    @property
    def address(self) -> str:
        """The account."""
        ...

    async def sign(self, transaction: Transaction) -> SignedTransaction:
        """Sign; the same transaction gives the same bytes.

        Raises:
            UnavailableError: who holds the key does not answer.
        """
        ...

    def read(self, signed: SignedTransaction) -> Transaction:
        """Take a signed transaction apart, to sign it again with other fees."""
        ...

    async def sign_receipt(self, digest: bytes) -> bytes:
        """Sign 32 bytes as a personal message (EIP-191); 65 bytes."""
        ...

    async def sign_typed(
        self, domain: Mapping[str, Any], types: Mapping[str, Any], value: Mapping[str, Any]
    ) -> bytes:
        """Sign typed data (EIP-712); 65 bytes."""
        ...

    async def prove_key(self, *, tangle: str, blueprint: int) -> bytes:
        """The public key, and the proof that its owner registers here: 130 bytes."""
        ...


class LocalWallet:
    """A key in this process."""

    def __init__(self, secret: bytes, *, chain_id: int) -> None:
        self._key = PrivateKey(secret)
        self._chain_id = chain_id
        self._public_key = self._key.public_key.format(compressed=False)
        self._address = str(to_checksum_address(keccak(self._public_key[1:])[-20:]))

    @property
    def address(self) -> str:
        """The account."""
        return self._address

    @property
    def public_key(self) -> bytes:
        """The uncompressed public key, 65 bytes."""
        return self._public_key

    async def sign(self, transaction: Transaction) -> SignedTransaction:
        """Sign; the same transaction gives the same bytes."""
        fields = _unsigned(transaction, self._chain_id)
        signature = self._sign_hash(keccak(_TYPE + _rlp(fields)))
        numbers = (signature[64], *(int.from_bytes(signature[at : at + 32]) for at in (0, 32)))
        raw = _TYPE + _rlp([*fields, *numbers])
        return SignedTransaction(transaction.nonce, raw, keccak(raw))

    def read(self, signed: SignedTransaction) -> Transaction:
        """Take a signed transaction apart, to sign it again with other fees."""
        return read_transaction(signed.raw)

    async def sign_receipt(self, digest: bytes) -> bytes:
        """Sign 32 bytes as a personal message (EIP-191); 65 bytes."""
        return self.sign_digest(digest)

    async def sign_typed(
        self, domain: Mapping[str, Any], types: Mapping[str, Any], value: Mapping[str, Any]
    ) -> bytes:
        """Sign typed data (EIP-712); 65 bytes."""
        from eth_account import Account  # noqa: PLC0415  slow to import

        account = cast("Any", Account).from_key(self._key.secret)
        return bytes(account.sign_typed_data(dict(domain), dict(types), dict(value)).signature)

    def shared_secret(self, public_key: bytes) -> bytes:
        """What this key and that public key share: 32 bytes, as libsecp256k1 makes them."""
        return self._key.ecdh(public_key)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes as a personal message (EIP-191); 65 bytes."""
        signature = self._sign_hash(message_hash(digest))
        return signature[:64] + bytes([27 + signature[64]])

    def key_proof(self, *, tangle: str, blueprint: int) -> bytes:
        """The public key, and the proof that its owner registers here: 130 bytes."""
        registration = Registration(self._chain_id, tangle, blueprint, self.address)
        return self.public_key + self.sign_digest(registration.digest(self.public_key))

    async def prove_key(self, *, tangle: str, blueprint: int) -> bytes:
        """The same, as wallets of every kind have it."""
        return self.key_proof(tangle=tangle, blueprint=blueprint)

    def _sign_hash(self, digest: bytes) -> bytes:
        return bytes(cast("Any", self._key).sign_recoverable(digest, hasher=None))


@dataclass(frozen=True, slots=True)
class Registration:
    """What a key is proven for."""

    chain_id: int
    tangle: str
    blueprint: int
    registrant: str

    def digest(self, public_key: bytes) -> bytes:
        """What the key signs, as a personal message."""
        return keccak(
            encode(
                ("bytes32", "uint256", "address", "uint64", "address", "bytes32"),
                (
                    keccak(b"TangleOperatorKeyProof"),
                    *(self.chain_id, self.tangle, self.blueprint, self.registrant),
                    keccak(public_key),
                ),
            )
        )


def fields_of(transaction: Transaction, chain_id: int) -> dict[str, Any]:
    """Write a transaction of type 2 as signers take it."""
    return {
        "type": 2,
        "chainId": chain_id,
        "to": transaction.to,
        "data": transaction.data,
        "value": 0,
        "gas": transaction.gas,
        "nonce": transaction.nonce,
        "maxFeePerGas": transaction.fees.max_fee,
        "maxPriorityFeePerGas": transaction.fees.priority_fee,
    }


def read_transaction(raw: bytes) -> Transaction:
    """Take a signed transaction of type 2 apart."""
    if raw[:1] != _TYPE:
        raise ValueError("a transaction of another type")
    fields = cast("list[bytes]", cast("Any", rlp).decode(raw[1:]))
    nonce, priority_fee, max_fee, gas = (int.from_bytes(field) for field in fields[1:5])
    return Transaction(
        to=str(to_checksum_address(fields[5])),
        data=bytes(fields[7]),
        gas=gas,
        nonce=nonce,
        fees=Fees(max_fee, priority_fee),
    )


def _unsigned(transaction: Transaction, chain_id: int) -> list[object]:
    fees, to = transaction.fees, bytes.fromhex(transaction.to[2:])
    return [
        *(chain_id, transaction.nonce, fees.priority_fee, fees.max_fee, transaction.gas),
        *(to, 0, transaction.data, []),
    ]


def _rlp(fields: list[object]) -> bytes:
    return bytes(cast("Any", rlp).encode(fields))


def open_wallet(path: Path, password: str | None, *, chain_id: int) -> LocalWallet:
    """Read a key file.

    Raises:
        InvalidConfigError: it cannot be read, others may read it, or the password is wrong.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise InvalidConfigError(f"the key file {path} cannot be read") from failure
    if mode & 0o077:
        raise InvalidConfigError(
            f"the key file {path} may be read by others (mode {mode:o})", hint=f"chmod 600 {path}"
        )
    try:
        return LocalWallet(_secret(text, password, chain_id=chain_id), chain_id=chain_id)
    except (ValueError, KeyError, TypeError):
        # The reason may quote the key: it is not passed on.
        raise InvalidConfigError(
            f"the key file {path} does not open: wrong password, or no keystore"
        ) from None


def _secret(text: str, password: str | None, *, chain_id: int) -> bytes:
    bare = text.removeprefix("0x")
    if len(bare) == _BARE_KEY_DIGITS:
        if chain_id not in DEVELOPMENT_CHAINS:
            raise InvalidConfigError(
                "a bare key is taken on development chains only",
                hint="make a keystore of version 3 and give its password by a file",
            )
        return bytes.fromhex(bare)
    if password is None:
        raise InvalidConfigError("the keystore needs a password", hint="--password-file FILE")
    from eth_account import Account  # noqa: PLC0415  slow to import

    return bytes(cast("Any", Account).decrypt(json.loads(text), password))
