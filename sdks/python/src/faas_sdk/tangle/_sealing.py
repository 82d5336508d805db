"""Boxes for what must not be read on a public chain: environment, payload and output.

A random key encrypts the content (AES-256-GCM); for each operator that key is wrapped under what an
ephemeral secp256k1 key and the operator's registered key share (ECDH, HKDF-SHA256). The content is
bound to caller, chain, manager, service and command, so a box copied from the chain into another
call does not open there. Image, command, sizes and times stay public.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any, Iterable, List, Union, cast

from coincurve import PrivateKey, PublicKey
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from eth_abi.abi import decode, encode
from eth_hash.auto import keccak

from faas_sdk._errors import DataLossError, InvalidArgumentError
from faas_sdk.tangle._abi import UNREADABLE
from faas_sdk.tangle._carried import Sealed, pack
from faas_sdk.tangle._codec import ExecuteAdvanced, ExecuteFunction, JobCall, UploadFiles
from faas_sdk.tangle._models import JobResult
from faas_sdk.tangle._node import address_of
from faas_sdk.tangle._overlaps import overlaps

SealableJob = Union[ExecuteFunction, ExecuteAdvanced, UploadFiles]
_BOX = ("bytes", "address[]", "bytes[]", "bytes", "bytes")
_SECRETS = ("string[]", "bytes", "bytes")
_DOMAIN = b"faas.sealed.v1"
_TAG_BYTES = 16


@dataclass(frozen=True)
class Place:
    """Where a box is valid."""

    chain_id: int
    manager: str
    service_id: int
    caller: str


@dataclass(frozen=True)
class SealedJob:
    """A job whose secrets only the operators can read, and the key to its output.

    Keep both over a restart: sealed again, the same job has other bytes.
    """

    call: JobCall
    reply_secret: bytes

    def open(self, result: JobResult) -> JobResult:
        """Open the output of its result.

        Raises:
            DataLossError: it is not sealed to this job.
        """
        if not isinstance(result.result, Sealed):
            return result
        context = keccak(b"faas.reply.v1" + keccak(self.call.encode()))
        return replace(result, result=_open(result.result.box, self.reply_secret, context))


def seal_job(call: JobCall, place: Place, operator_keys: Iterable[bytes]) -> SealedJob:
    """Seal environment and payload of a job to the operators with these public keys.

    Raises:
        InvalidArgumentError: the job has no payload.
    """
    if isinstance(call, (ExecuteFunction, ExecuteAdvanced)):
        env, payload = call.env, call.payload
        public: SealableJob = replace(call, env=(), payload=b"")
    elif isinstance(call, UploadFiles):
        env, payload = (), call.archive
        public = replace(call, archive=b"")
    else:
        raise InvalidArgumentError(f"{call.kind.name.lower()} has nothing that could be sealed")
    context = keccak(
        encode(
            ("bytes32", "uint64", "address", "uint64", "address", "uint8", "bytes"),
            (
                *(keccak(_DOMAIN), place.chain_id, place.manager, place.service_id, place.caller),
                *(int(call.kind), public.encode()),
            ),
        )
    )
    reply = PrivateKey()
    plain = encode(_SECRETS, (env, payload, reply.public_key.format()))
    field = pack(Sealed(_seal(plain, operator_keys, context)))
    if isinstance(public, UploadFiles):
        return SealedJob(replace(public, archive=field), reply.secret)
    return SealedJob(replace(public, payload=field), reply.secret)


def _seal(plain: bytes, keys: Iterable[bytes], context: bytes) -> bytes:
    ephemeral = PrivateKey()
    sender = ephemeral.public_key.format()
    content_key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    recipients: List[str] = []
    wrapped: List[bytes] = []
    for key in keys:
        address = _address(key)
        recipients.append(address)
        shared = ephemeral.ecdh(PublicKey(key).format())
        wrapped.append(_encrypt(_derived(shared, sender, address), bytes(12), content_key, b""))
    return encode(
        _BOX, (sender, recipients, wrapped, nonce, _encrypt(content_key, nonce, plain, context))
    )


def _open(box: bytes, secret: bytes, context: bytes) -> bytes:
    key = PrivateKey(secret)
    mine = _address(key.public_key.format())
    if overlaps(_BOX, box):
        raise DataLossError("the output is in no box that anybody would make")
    try:
        sender, recipients, wrapped, nonce, content = decode(_BOX, box)
        place = [name.lower() for name in recipients].index(mine.lower())
        shared = key.ecdh(PublicKey(sender).format())
        content_key = _decrypt(_derived(shared, sender, mine), bytes(12), wrapped[place], b"")
        return _decrypt(content_key, nonce, content, context)
    except (*UNREADABLE, ValueError, IndexError) as error:
        raise DataLossError("the output does not open with this job's key") from error


def _address(key: bytes) -> str:
    return address_of(keccak(PublicKey(key).format(compressed=False)[1:]))


def _derived(shared: bytes, sender: bytes, address: str) -> bytes:
    info = _DOMAIN + bytes.fromhex(address[2:])
    return cast("bytes", HKDF(shared, 32, sender, SHA256, 1, info))


def _encrypt(key: bytes, nonce: bytes, plain: bytes, context: bytes) -> bytes:
    sealed, tag = _cipher(key, nonce, context).encrypt_and_digest(plain)
    return sealed + tag


def _decrypt(key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    cipher = _cipher(key, nonce, context)
    return cipher.decrypt_and_verify(sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])


def _cipher(key: bytes, nonce: bytes, context: bytes) -> Any:
    cipher: Any = cast("Any", AES).new(key, AES.MODE_GCM, nonce=nonce)
    cipher.update(context)
    return cipher
