"""A tenant's dependency caches in one run: put in before its command, what is new kept after it.

The layers that are kept are never shown to a sandbox themselves: their files are copied into its
own file system, where the run may do with them as it likes. What it made of them is its own affair:
after a command that ended well, files under new names are added to the tenant's cache, and nothing
else comes out of it. A run that may not be trusted with that asks with `cache_write` false.
"""

import asyncio
import io
import logging
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from faas.caches import KINDS, CacheKind, CacheName, CacheStore
from faas.caches.kinds import ROOT
from faas.errors import FaasError, InvalidArgumentError, NotFoundError, TooLargeError
from faas.ids import TenantId
from faas.model import CacheReport, ExecutionSpec, ExitReason
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.protocols import Exit

KEEP_SECONDS_MAX = 60.0
"""For reading a cache out of a sandbox and sifting it; the answer waits for it."""

_SHARE_OF_DISK, _SHARE_OF_MEMORY = 2, 4
"""What is put in counts as the run's own disk and memory: at most a half of the one, a quarter of
the other, newest layers first."""

_log = logging.getLogger(__name__)


class DependencyCaches:
    """What the executor does with caches."""

    def __init__(self, store: CacheStore, *, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch

    @property
    def are_kept(self) -> bool:
        """Whether this gateway keeps any."""
        return self._store.bounds.tenant_bytes_max > 0

    def start(self) -> None:
        """Remove what a killed gateway left half-way."""
        self._store.reclaim()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def put_in(self, sandbox: GuardedSandbox, spec: ExecutionSpec, tenant: TenantId) -> None:
        """Give a fresh sandbox the caches that its execution asks for."""
        if not spec.caches:
            return
        limits = spec.limits
        room = min(limits.disk_bytes // _SHARE_OF_DISK, limits.memory_bytes // _SHARE_OF_MEMORY)
        kinds = [KINDS[CacheName(name)] for name in spec.caches]
        await sandbox.put_archive(_places(kinds), path="/")
        for kind in kinds:
            for layer in await self._store.layers(tenant, kind.name, bytes_max=room):
                # One that was evicted meanwhile, or cannot be unpacked there, is only missed.
                with suppress(FileNotFoundError, InvalidArgumentError):
                    size = layer.stat().st_size
                    await sandbox.put_archive(layer, path=kind.path)
                    room -= size

    async def keep(
        self, sandbox: GuardedSandbox, spec: ExecutionSpec, tenant: TenantId, end: Exit
    ) -> tuple[CacheReport, ...]:
        """Keep what a command that ended well added; whatever fails here is not the command's."""
        if not spec.caches:
            return ()
        is_kept = spec.cache_write and end.reason is ExitReason.EXITED and end.code == 0
        reports: list[CacheReport] = []
        try:
            async with asyncio.timeout(KEEP_SECONDS_MAX):
                for name in spec.caches:
                    found = CacheReport(name)
                    if is_kept:
                        found = await self._keep_one(sandbox, CacheName(name), tenant)
                    reports.append(found)
                await sandbox.remove(ROOT, recursive=True)
        except (FaasError, OSError, TimeoutError) as failure:
            _log.warning("caches were not kept", extra={"tenant": tenant, "problem": str(failure)})
        done = {report.name for report in reports}
        reports += [CacheReport(n, problem="not kept") for n in spec.caches if n not in done]
        return tuple(reports)

    async def _keep_one(
        self, sandbox: GuardedSandbox, name: CacheName, tenant: TenantId
    ) -> CacheReport:
        with TemporaryDirectory(dir=self._scratch) as directory:
            given = Path(directory) / "given.tar"
            try:
                await self._take(sandbox, KINDS[name].path, given)
                found = await self._store.add(tenant, name, given)
            except NotFoundError:
                return CacheReport(name.value)
            except FaasError as refusal:
                return CacheReport(name.value, problem=refusal.message)
        return CacheReport(name.value, found.added, found.added_bytes, found.refused)

    async def _take(self, sandbox: GuardedSandbox, path: str, given: Path) -> None:
        """Copy out at most what all of a tenant may have, and a little for a tar's own blocks."""
        room = 2 * self._store.bounds.tenant_bytes_max
        with given.open("wb") as file:
            async for chunk in sandbox.get_archive(path):
                room -= len(chunk)
                if room < 0:
                    raise TooLargeError("the cache of the run is larger than may be kept")
                await asyncio.to_thread(file.write, chunk)


def _places(kinds: Iterable[CacheKind]) -> bytes:
    """A tar of empty directories that any user may write to."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in (ROOT, *(kind.path for kind in kinds)):
            place = tarfile.TarInfo(path.lstrip("/"))
            place.type, place.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(place)
    return packed.getvalue()


def environment(names: Iterable[str]) -> dict[str, str]:
    """Return the variables that tell the tools where their caches are."""
    found: dict[str, str] = {}
    for name in names:
        found |= KINDS[CacheName(name)].env
    return found
