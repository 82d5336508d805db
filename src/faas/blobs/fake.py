"""Blobs in memory, with faults on order: for everybody's tests."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from faas.blobs.digest import Digest, check, digest_of, parse_digest
from faas.blobs.protocol import BlobStat
from faas.errors import NotFoundError, StoreUnavailableError

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Fault(StrEnum):
    """What shall go wrong."""

    UNREACHABLE = "unreachable"
    """The call fails before anything happens."""
    LOST_ANSWER = "lost_answer"
    """It happens, but the caller is told it failed."""
    WRONG_BYTES = "wrong_bytes"
    """Other bytes come back."""
    CUT = "cut"
    """Fewer bytes come back."""


@dataclass(slots=True)
class _Kept:
    data: bytes
    put_at: datetime


class FakeBlobStore:
    """A dict; `faults` is consumed one a call, None is a call that works."""

    def __init__(self, *, faults: list[Fault | None] | None = None) -> None:
        self._blobs: dict[Digest, _Kept] = {}
        self.faults = faults or []
        self.calls: list[str] = []

    @property
    def name(self) -> str:
        return "memory"

    async def put(self, data: bytes) -> Digest:
        fault = self._begin("put")
        digest = digest_of(data)
        self._blobs[digest] = _Kept(bytes(data), _EPOCH)
        self._end(fault)
        return digest

    async def get(self, digest: Digest) -> bytes:
        return check(_spoil(self._kept(digest).data, self._begin("get")), digest)

    async def get_range(self, digest: Digest, *, offset: int, length: int) -> bytes:
        data = self._kept(digest).data[offset : offset + length]
        return _spoil(data, self._begin("get_range"))

    async def stat(self, digest: Digest) -> BlobStat | None:
        self._begin("stat")
        kept = self._blobs.get(digest)
        return BlobStat(digest, len(kept.data), kept.put_at) if kept else None

    async def list(self) -> AsyncIterator[BlobStat]:
        self._begin("list")
        for digest in sorted(self._blobs):
            kept = self._blobs[digest]
            yield BlobStat(digest, len(kept.data), kept.put_at)

    async def delete(self, digest: Digest) -> None:
        fault = self._begin("delete")
        self._blobs.pop(digest, None)
        self._end(fault)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _kept(self, digest: Digest) -> _Kept:
        if parse_digest(digest) not in self._blobs:
            raise NotFoundError(f"no blob {digest}")
        return self._blobs[digest]

    def _begin(self, call: str) -> Fault | None:
        self.calls.append(call)
        fault = self.faults.pop(0) if self.faults else None
        if fault is Fault.UNREACHABLE:
            raise StoreUnavailableError("the store does not answer (fault on order)")
        return fault

    def _end(self, fault: Fault | None) -> None:
        if fault is Fault.LOST_ANSWER:
            raise StoreUnavailableError("the answer was lost (fault on order)")


def _spoil(data: bytes, fault: Fault | None) -> bytes:
    if fault is Fault.WRONG_BYTES:
        return bytes(b ^ 1 for b in data[:1]) + data[1:]
    return data[: len(data) // 2] if fault is Fault.CUT else data
