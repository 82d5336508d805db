"""The kept caches of all tenants: immutable layers in a directory for each tenant and tool.

    <directory>/<digest of the tenant's id>/<tool>/<time>-<random>.tar

A layer appears whole or not at all: it is written beside, forced to disk, then renamed. A tenant's
directory is found by a digest of its id, so no name of a tenant or a sandbox ever becomes a path. A
name that is in one layer is never put into another, so nothing that was kept is ever changed.

Who goes: a tenant above its bound, or all together above theirs, give up whole layers, those put
into a sandbox least recently first. More than `LAYERS_MAX` layers of a tool become one.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from faas.caches.kinds import KINDS, CacheName
from faas.caches.layers import Names, Sifted, join, names_of, sift
from faas.ids import TenantId

LAYERS_MAX = 48
"""Each is one more tar to put in; joining them reads and writes them all once."""

_log = logging.getLogger(__name__)

_TEMPORARY = ".new-"


@dataclass(frozen=True, slots=True)
class CacheBounds:
    """How much is kept."""

    tenant_bytes_max: int = 1 << 30
    """Of one tenant, all tools together; 0: nothing is kept."""
    bytes_max: int = 8 << 30
    """Of all tenants together."""


_Shelf = tuple[TenantId, CacheName]


class CacheStore:
    """Holds layers. One process at a time."""

    def __init__(self, directory: Path, *, bounds: CacheBounds | None = None) -> None:
        self._directory = directory
        self.bounds = bounds or CacheBounds()
        self._names: dict[_Shelf, dict[Path, dict[str, int]]] = {}
        self._turns: dict[_Shelf, asyncio.Lock] = {}

    def reclaim(self) -> int:
        """Remove what a killed gateway left half-written; return how many."""
        left = list(self._directory.glob(f"*/*/{_TEMPORARY}*"))
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    async def layers(self, tenant: TenantId, name: CacheName, *, bytes_max: int) -> list[Path]:
        """Return the layers to put into a sandbox, newest first, as many as fit."""
        async with self._turn(tenant, name):
            return await asyncio.to_thread(self._chosen, tenant, name, bytes_max)

    async def add(self, tenant: TenantId, name: CacheName, given: Path) -> Sifted:
        """Keep what is new in a sandbox's tar of its cache.

        Raises:
            InvalidImageError: it is not a tar.
            TooLargeError: the run added more than may be kept.
        """
        async with self._turn(tenant, name):
            return await asyncio.to_thread(self._add, tenant, name, given)

    async def forget(self, tenant: TenantId, name: CacheName) -> int:
        """Remove a tenant's cache of a tool; return how many bytes went."""
        async with self._turn(tenant, name):
            return await asyncio.to_thread(self._forget, tenant, name)

    def sizes(self, tenant: TenantId) -> dict[CacheName, int]:
        """Return how many bytes are kept for a tenant, by tool."""
        return {name: sum(map(_size, self._paths(tenant, name))) for name in KINDS}

    def _turn(self, tenant: TenantId, name: CacheName) -> asyncio.Lock:
        return self._turns.setdefault((tenant, name), asyncio.Lock())

    def _place(self, tenant: TenantId, name: CacheName) -> Path:
        digest = hashlib.sha256(tenant.encode()).hexdigest()[:32]
        return self._directory / digest / name.value

    def _paths(self, tenant: TenantId, name: CacheName) -> list[Path]:
        return sorted(self._place(tenant, name).glob("*.tar"))

    def _chosen(self, tenant: TenantId, name: CacheName, bytes_max: int) -> list[Path]:
        chosen: list[Path] = []
        for path in reversed(self._paths(tenant, name)):
            size = _size(path)
            if size <= bytes_max:
                bytes_max -= size
                chosen.append(path)
                with suppress(OSError):
                    os.utime(path)
        return chosen

    def _known(self, tenant: TenantId, name: CacheName) -> dict[Path, dict[str, int]]:
        """Names by layer, read once."""
        paths = self._paths(tenant, name)
        known = self._names.setdefault((tenant, name), {})
        for gone in set(known) - set(paths):
            del known[gone]
        for path in paths:
            if path not in known:
                try:
                    known[path] = names_of(path)
                except (tarfile.TarError, OSError):
                    _log.warning("a damaged layer is dropped", extra={"tool": name.value})
                    path.unlink(missing_ok=True)
        return known

    def _add(self, tenant: TenantId, name: CacheName, given: Path) -> Sifted:
        known = self._known(tenant, name)
        names = Names(one for layer in known.values() for one in layer)
        place = self._place(tenant, name)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        layer = place / _new_name()
        staged = place / f"{_TEMPORARY}{layer.name}"
        try:
            with staged.open("xb") as file, given.open("rb") as source:
                room = self.bounds.tenant_bytes_max // 2
                found = sift(source, file, KINDS[name], known=names, bytes_max=room)
                _settle(file)
            if not found.added:
                return found
            _commit(staged, layer)
        finally:
            staged.unlink(missing_ok=True)
        known[layer] = found.names
        self._tidy(tenant, name)
        return found

    def _tidy(self, tenant: TenantId, name: CacheName) -> None:
        paths = self._paths(tenant, name)
        if len(paths) > LAYERS_MAX:
            self._join(paths)
        own = self._place(tenant, name).parent
        _shrink(own.glob("*/*.tar"), self.bounds.tenant_bytes_max)
        _shrink(self._directory.glob("*/*/*.tar"), self.bounds.bytes_max)

    def _join(self, paths: list[Path]) -> None:
        """Make one of many. Killed in between, names are in two layers, the same in both."""
        joined = paths[-1].with_name(_new_name())
        staged = joined.with_name(f"{_TEMPORARY}{joined.name}")
        try:
            with staged.open("xb") as file:
                join(paths, file)
                _settle(file)
            _commit(staged, joined)
        finally:
            staged.unlink(missing_ok=True)
        for path in paths:
            path.unlink(missing_ok=True)

    def _forget(self, tenant: TenantId, name: CacheName) -> int:
        paths = self._paths(tenant, name)
        gone = sum(map(_size, paths))
        for path in paths:
            path.unlink(missing_ok=True)
        return gone


def _new_name() -> str:
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}.tar"


def _settle(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _commit(staged: Path, layer: Path) -> None:
    staged.replace(layer)
    directory = os.open(layer.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _shrink(paths: Iterable[Path], bytes_max: int) -> None:
    """Remove those put in least recently until the rest fits."""
    used: list[tuple[int, int, Path]] = []
    for path in paths:
        with suppress(OSError):
            told = path.stat()
            used.append((told.st_mtime_ns, told.st_size, path))
    total = sum(size for _, size, _ in used)
    for _, size, path in sorted(used):
        if total <= bytes_max:
            return
        path.unlink(missing_ok=True)
        total -= size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
