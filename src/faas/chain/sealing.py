"""Boxes for payloads that must not be read on a public chain: ECIES to the operators' keys.

A random key encrypts the content (AES-256-GCM); for each recipient that key is wrapped under what
an ephemeral secp256k1 key and the recipient's public key share (ECDH, HKDF-SHA256). The content is
bound to its context: who calls, on which chain and service, with which command. So a box that is
copied from the chain into another call, say one that prints its input, does not open there.

What a box hides: environment, payload and output. What it does not: image, command, sizes, times.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, cast

from coincurve import PrivateKey, PublicKey
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, InsufficientDataBytes
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.chain.codec import ExecuteAdvanced, ExecuteFunction, JobCall, UploadFiles, encode_call
from faas.chain.overlaps import overlaps
from faas.errors import InvalidArgumentError

_BOX: Final = ("bytes", "address[]", "bytes[]", "bytes", "bytes")
"""Ephemeral key, recipients, wrapped keys in their order, nonce, content and its tag."""
_SECRETS: Final = ("string[]", "bytes", "bytes")
_DOMAIN: Final = b"faas.sealed.v1"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_RECIPIENTS_MAX: Final = 128
"""Tangle's most operators of a service."""
_UNREADABLE: Final = (DecodingError, InsufficientDataBytes, UnicodeDecodeError, OverflowError)


class Opener(Protocol):
    """Holds a private key and shares nothing of it but secrets with others."""

    @property
    def address(self) -> str:
        """Whose key it is."""
        ...

    def shared_secret(self, public_key: bytes) -> bytes:
        """What this key and that public key share: 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is inside a box of a call."""

    env: tuple[str, ...] = ()
    payload: bytes = b""
    reply_key: bytes = b""
    """A public key to seal the output to; empty: the output is public."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where a box is valid."""

    chain_id: int
    manager: str
    service: int
    caller: str

    def of(self, call: JobCall) -> bytes:
        """Bind to one call: all of it but the box itself."""
        return keccak(
            encode(
                ("bytes32", "uint64", "address", "uint64", "address", "uint8", "bytes"),
                (
                    *(keccak(_DOMAIN), self.chain_id, self.manager, self.service, self.caller),
                    *(int(call.kind), encode_call(with_payload(call, b""))),
                ),
            )
        )


def payload_of(call: JobCall) -> bytes | None:
    """The field of a call that can be sealed or be a reference; None when it has none."""
    if isinstance(call, ExecuteFunction | ExecuteAdvanced):
        return call.payload
    return call.archive if isinstance(call, UploadFiles) else None


def with_payload(call: JobCall, payload: bytes) -> JobCall:
    """The same call with another payload."""
    if isinstance(call, ExecuteFunction | ExecuteAdvanced):
        return replace(call, payload=payload)
    return replace(call, archive=payload) if isinstance(call, UploadFiles) else call


def seal_secrets(secret: Secrets, keys: Iterable[bytes], context: bytes) -> bytes:
    """Make a box of a call's secrets for the operators with these public keys."""
    plain = encode(_SECRETS, (secret.env, secret.payload, secret.reply_key))
    return seal(plain, keys, context)


def open_secrets(box: bytes, opener: Opener, context: bytes) -> Secrets:
    """Open a box of a call.

    Raises:
        InvalidArgumentError: it is not for this key or not for this call.
    """
    plain = open_box(box, opener, context)
    if overlaps(_SECRETS, plain):
        raise InvalidArgumentError("what was sealed is not canonical")
    try:
        env, payload, reply_key = decode(_SECRETS, plain)
    except _UNREADABLE as error:
        raise InvalidArgumentError("what was sealed does not decode") from error
    if reply_key:
        public_key_of(reply_key)
    return Secrets(env, payload, reply_key)


def seal(plain: bytes, keys: Iterable[bytes], context: bytes) -> bytes:
    """Make a box that each of these public keys can open."""
    ephemeral = PrivateKey()
    sender = ephemeral.public_key.format()
    content_key, nonce = secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
    recipients: list[str] = []
    wrapped: list[bytes] = []
    for key in keys:
        public = public_key_of(key)
        recipients.append(address_of(key))
        shared = ephemeral.ecdh(public.format())
        wrapped.append(_encrypt(_wrapping_key(shared, sender, key), bytes(12), content_key, b""))
    content = _encrypt(content_key, nonce, plain, context)
    return encode(_BOX, (sender, recipients, wrapped, nonce, content))


def open_box(box: bytes, opener: Opener, context: bytes) -> bytes:
    """Open a box.

    Raises:
        InvalidArgumentError: it is not for this key, was changed, or is of another context.
    """
    if overlaps(_BOX, box):
        raise InvalidArgumentError("the sealed payload is not canonical")
    try:
        sender, recipients, wrapped, nonce, content = decode(_BOX, box)
    except _UNREADABLE as error:
        raise InvalidArgumentError("the sealed payload does not decode") from error
    names = [str(to_checksum_address(name)) for name in recipients[:_RECIPIENTS_MAX]]
    if opener.address not in names or len(wrapped) != len(recipients):
        raise InvalidArgumentError("the payload is not sealed to this operator's key")
    public_key_of(sender)
    shared = opener.shared_secret(sender)
    mine = wrapped[names.index(opener.address)]
    content_key = _decrypt(_derived(shared, sender, opener.address), bytes(12), mine, b"")
    return _decrypt(content_key, nonce, content, context)


def public_key_of(key: bytes) -> PublicKey:
    """Read a public key, compressed or not.

    Raises:
        InvalidArgumentError: it is no point of the curve.
    """
    try:
        return PublicKey(key)
    except ValueError:
        raise InvalidArgumentError("that is no secp256k1 public key") from None


def address_of(key: bytes) -> str:
    """The account of a public key."""
    return to_checksum_address(keccak(public_key_of(key).format(compressed=False)[1:])[-20:])


def _wrapping_key(shared: bytes, sender: bytes, key: bytes) -> bytes:
    return _derived(shared, sender, address_of(key))


def _derived(shared: bytes, sender: bytes, address: str) -> bytes:
    info = _DOMAIN + bytes.fromhex(address[2:])
    made = HKDF(shared, _KEY_BYTES, sender, SHA256, 1, info)
    return cast("bytes", made)


def _encrypt(key: bytes, nonce: bytes, plain: bytes, context: bytes) -> bytes:
    cipher = _cipher(key, nonce, context)
    sealed, tag = cipher.encrypt_and_digest(plain)
    return sealed + tag


def _decrypt(key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    try:
        cipher = _cipher(key, nonce, context)
        return cipher.decrypt_and_verify(sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])
    except ValueError:
        raise InvalidArgumentError(
            "the sealed payload does not open here",
            hint="a box belongs to its caller, chain, service and command",
        ) from None


def _cipher(key: bytes, nonce: bytes, context: bytes) -> Any:
    cipher: Any = cast("Any", AES).new(key, AES.MODE_GCM, nonce=nonce)
    cipher.update(context)
    return cipher
