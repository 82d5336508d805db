"""Brings a job's payload in and its output out: by reference, sealed, or as it stands.

A reference names a store and a digest, never an address to fetch from: the operator reads from the
one store it was given, under the name of the bytes' hash. So nobody makes it ask a host or read a
path of their choice, and what comes back is checked.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from eth_hash.auto import keccak

from faas.blobs.digest import Digest
from faas.blobs.protocol import BlobStore
from faas.chain.carried import Carried, Reference, Sealed, pack, unpack
from faas.chain.codec import INLINE_BYTES_MAX, JobCall
from faas.chain.journal import SeenCall
from faas.chain.sealing import Context, Opener, open_secrets, payload_of, seal, with_payload
from faas.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    TooLargeError,
    UnsupportedError,
)

REFERENCE_BYTES_MAX: Final = 64 << 20
"""Of one payload or output by reference: it is held in memory on its way."""


@dataclass(frozen=True, slots=True)
class SharedStore:
    """The object store that the callers and operators of a service share."""

    name: str
    blobs: BlobStore


@dataclass(frozen=True, slots=True)
class Cargo:
    """A call with its payload at hand."""

    call: JobCall
    env: tuple[str, ...] = ()
    """Variables that were sealed."""
    reply_key: bytes = b""
    is_sealed: bool = False

    @property
    def payload_sha256(self) -> bytes:
        """The digest of what is fed to the job."""
        return hashlib.sha256(payload_of(self.call) or b"").digest()


@dataclass(frozen=True, slots=True)
class Carriage:
    """What one operator can carry."""

    chain_id: int
    manager: str
    store: SharedStore | None = None
    opener: Opener | None = None
    reference_bytes_max: int = REFERENCE_BYTES_MAX

    async def unload(self, call: JobCall, seen: SeenCall) -> Cargo:
        """Bring a call's payload in.

        Raises:
            InvalidArgumentError: it is in no form we know, or sealed to another or for another.
            UnsupportedError: this operator has no store, or no key to open with.
            UnavailableError: the store does not answer now.
        """
        field = payload_of(call)
        if field is None:
            return Cargo(call)
        carried = unpack(field)
        if isinstance(carried, Reference):
            carried = unpack(await self._fetch(carried))
        if isinstance(carried, bytes):
            return Cargo(with_payload(call, carried))
        if isinstance(carried, Reference):
            raise InvalidArgumentError("a reference leads to another reference")
        return self._opened(carried, call, seen)

    async def load(self, output: bytes, seen: SeenCall, cargo: Cargo) -> bytes:
        """Bring an output out: the bytes of the output field.

        Raises:
            TooLargeError: it does not fit, and there is no store.
            UnavailableError: the store does not answer now.
        """
        carried: Carried = output
        if cargo.reply_key:
            carried = Sealed(seal(output, [cargo.reply_key], reply_context(seen.inputs_hash)))
        packed = pack(carried)
        # The ABI adds two words to the bytes.
        if len(packed) + 64 <= INLINE_BYTES_MAX:
            return packed
        if self.store is None or len(packed) > self.reference_bytes_max:
            most = self.reference_bytes_max if self.store else INLINE_BYTES_MAX
            raise TooLargeError(f"the output is above {most} bytes")
        digest = await self.store.blobs.put(packed)
        return pack(Reference(self.store.name, _sha256_of(digest), len(packed)))

    def _opened(self, sealed: Sealed, call: JobCall, seen: SeenCall) -> Cargo:
        if self.opener is None:
            raise UnsupportedError("this operator's key cannot open sealed payloads")
        context = Context(self.chain_id, self.manager, seen.key.service, seen.caller).of(call)
        secret = open_secrets(sealed.box, self.opener, context)
        return Cargo(
            with_payload(call, secret.payload), secret.env, secret.reply_key, is_sealed=True
        )

    async def _fetch(self, reference: Reference) -> bytes:
        if self.store is None or self.store.name != reference.store:
            raise UnsupportedError(f"this operator does not read from {reference.store[:200]}")
        if reference.size_bytes > self.reference_bytes_max:
            raise TooLargeError(f"the payload is above {self.reference_bytes_max} bytes")
        digest = Digest("sha256:" + reference.sha256.hex())
        stat = await self.store.blobs.stat(digest)
        if stat is None:
            raise NotFoundError("the referenced payload is not in the store")
        if stat.size_bytes != reference.size_bytes:
            raise InvalidArgumentError("the referenced payload has another size")
        try:
            return await self.store.blobs.get(digest)
        except DataLossError as damage:
            raise InvalidArgumentError("the referenced payload has another digest") from damage


def reply_context(inputs_hash: bytes) -> bytes:
    """What a sealed output is bound to."""
    return keccak(b"faas.reply.v1" + inputs_hash)


def _sha256_of(digest: Digest) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))
