"""Small named records beside the blobs: what gives a digest a name.

A name is `kind/id` of `[a-z0-9-]` (so it is a safe file and object name). `put` replaces the record
whole or not at all. Two tiers behave as one: written to both, read near first, listed from both.
"""

import asyncio
import os
import re
import secrets
from pathlib import Path
from typing import Any, Protocol

from faas.errors import InvalidArgumentError, NotFoundError, StoreUnavailableError

_NAME = re.compile(r"[a-z0-9-]{1,64}/[a-z0-9-]{1,96}")
_RECORD_BYTES_MAX = 1 << 20


class RefStore(Protocol):
    """Keeps small records by name."""

    async def put(self, name: str, record: bytes) -> None: ...

    async def get(self, name: str) -> bytes: ...

    async def list(self, kind: str) -> list[str]: ...

    async def delete(self, name: str) -> None: ...


def check_name(name: str) -> str:
    """Return the name when it has the right shape.

    Raises:
        InvalidArgumentError: it has not.
    """
    if _NAME.fullmatch(name):
        return name
    raise InvalidArgumentError(f"{name[:80]!r} is not the name of a record")


class LocalRefStore:
    """Records as files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in root.glob("*/.new-*"):
            leftover.unlink(missing_ok=True)

    async def put(self, name: str, record: bytes) -> None:
        await asyncio.to_thread(self._put, check_name(name), record)

    async def get(self, name: str) -> bytes:
        try:
            return (self._root / check_name(name)).read_bytes()
        except FileNotFoundError as cause:
            raise NotFoundError(f"no record {name}") from cause

    async def list(self, kind: str) -> list[str]:
        folder = self._root / kind
        if not folder.is_dir():
            return []
        return sorted(f"{kind}/{p.name}" for p in folder.iterdir() if not p.name.startswith("."))

    async def delete(self, name: str) -> None:
        (self._root / check_name(name)).unlink(missing_ok=True)

    def _put(self, name: str, record: bytes) -> None:
        path = self._root / name
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            staged = path.parent / f".new-{secrets.token_hex(8)}"
            with staged.open("xb") as target:
                target.write(record)
                target.flush()
                os.fsync(target.fileno())
            staged.rename(path)
            handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as cause:
            raise StoreUnavailableError(f"cannot keep record {name}: {cause.strerror}") from cause


class ObjectRefStore:
    """Records as objects in a bucket; a PUT of one object is atomic there."""

    def __init__(self, store: Any, *, prefix: str = "") -> None:
        self._store = store
        self._prefix = f"{prefix.strip('/')}/refs".lstrip("/")

    async def put(self, name: str, record: bytes) -> None:
        from faas.blobs.objects import put_object  # noqa: PLC0415  obstore only where it is used

        await put_object(self._store, f"{self._prefix}/{check_name(name)}", record)

    async def get(self, name: str) -> bytes:
        from faas.blobs.objects import get_object  # noqa: PLC0415

        record = await get_object(self._store, f"{self._prefix}/{check_name(name)}")
        if len(record) > _RECORD_BYTES_MAX:
            raise StoreUnavailableError(f"record {name} is too large to be ours")
        return record

    async def list(self, kind: str) -> list[str]:
        from faas.blobs.objects import list_objects  # noqa: PLC0415

        paths = await list_objects(self._store, f"{self._prefix}/{kind}")
        names = [path.removeprefix(self._prefix + "/") for path in paths]
        return sorted(name for name in names if _NAME.fullmatch(name))

    async def delete(self, name: str) -> None:
        from faas.blobs.objects import delete_object  # noqa: PLC0415

        await delete_object(self._store, f"{self._prefix}/{check_name(name)}")


class TieredRefStore:
    """Both at once."""

    def __init__(self, near: RefStore, far: RefStore) -> None:
        self._near = near
        self._far = far

    async def put(self, name: str, record: bytes) -> None:
        await self._far.put(name, record)
        await self._near.put(name, record)

    async def get(self, name: str) -> bytes:
        try:
            return await self._near.get(name)
        except NotFoundError:
            record = await self._far.get(name)
            await self._near.put(name, record)
            return record

    async def list(self, kind: str) -> list[str]:
        return sorted({*await self._near.list(kind), *await self._far.list(kind)})

    async def delete(self, name: str) -> None:
        # What is only far is still there, for every gateway; what is only near would be for one.
        await self._near.delete(name)
        await self._far.delete(name)
