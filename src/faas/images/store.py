"""Which tree an image's name stands for.

On disk, below one directory that only its owner may enter::

    trees/<digest>/{rootfs/, config.json, lock}    a committed tree, never changed
    refs/<name>.json                               which tree a name stands for
    tmp/                                           imports under way, trees being removed
    generation                                     replaced at every change: caches look at it
    lock                                           held while trees and names change

An import unpacks into `tmp`, makes it durable, renames it into `trees` and then writes the name.
A crash at any line leaves the old name or the new one; what it leaves in `tmp`, and trees without a
name, go at the next start (`reclaim`). The digest of a tree is over its content and configuration
(`tree`), so one content is stored once whatever it was imported from.

Names are looked up in this order: `host`; an imported name; an alias; a digest. A tree in use
(`hold`) cannot be removed. What a dead gateway's sandboxes still use is not known here: start the
gateway, which takes them back, before removing images.
"""

import asyncio
import ctypes
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from faas.clock import Clock, SystemClock
from faas.errors import (
    DigestMismatchError,
    FaasError,
    ImageNotFoundError,
    InvalidImageError,
    WrongStateError,
)
from faas.images.beneath import clear, names
from faas.images.config import ImageConfig, resolve_user
from faas.images.holds import TreeHolds, is_held
from faas.images.layers import TreeWriter, UnpackCounts, UnpackLimits
from faas.images.records import (
    ImageReclaim,
    ImageRecord,
    RefRecord,
    TreeRecord,
    all_refs,
    read_record,
    ref_path,
    sync_directory,
    write_record,
)
from faas.images.reference import HOST, ImageReference, is_digest
from faas.images.sources import ImageSource, open_source
from faas.images.tree import tree_digest
from faas.sandbox.protocols import RootFilesystem

_CACHE_MAX = 10_000
"""Spellings remembered: far more than anybody has images, so that no caller can fill the memory."""
_HOST_ROOT = RootFilesystem(digest=HOST, path=None)


class ImageStore:
    """The images of one data directory; several processes may use it at once."""

    def __init__(
        self,
        directory: Path,
        aliases: Mapping[str, str] | None = None,
        *,
        limits: UnpackLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`aliases` say what a name means while no image of that name was imported."""
        self._directory = directory
        self._generation_name = str(directory / "generation")
        self._trees, self._refs, self._tmp = (directory / part for part in ("trees", "refs", "tmp"))
        for part in (directory, self._trees, self._refs, self._tmp):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._aliases = {_normal(name): target for name, target in (aliases or {}).items()}
        self._limits = limits or UnpackLimits()
        self._clock = clock or SystemClock()
        self._holds = TreeHolds()
        self._generation: tuple[int, int] | None = None
        self._cache: dict[str, RootFilesystem] = {}

    @property
    def directory(self) -> Path:
        """Where all of it lies."""
        return self._directory

    def resolve(self, reference: str) -> RootFilesystem:
        """Return what a name stands for; from memory unless images changed since.

        Raises:
            InvalidImageError: it is no image name.
            ImageNotFoundError: nothing here has that name.
            ManifestError: the store's record of it is damaged.
        """
        generation = self._look_at_generation()
        if generation != self._generation:
            self._cache.clear()
            self._generation = generation
        found = self._cache.get(reference)
        if found is None:
            found = self._find(reference)
            if len(self._cache) < _CACHE_MAX:
                self._cache[reference] = found
        return found

    def list(self) -> list[ImageRecord]:
        """Every image here, `host` first."""
        images = [ImageRecord(HOST, HOST)]
        for ref in all_refs(self._refs):
            tree = read_record(self._tree(ref.digest) / "config.json", TreeRecord)
            images.append(
                ImageRecord(
                    reference=ImageReference.parse(ref.name).familiar,
                    digest=ref.digest,
                    size_bytes=tree.size_bytes if tree else None,
                    created_at=ref.imported_at,
                    source=ref.source,
                    manifest_digest=ref.manifest_digest,
                )
            )
        return images

    def names(self) -> "list[str]":
        """Every name that stands for something here, in its short form."""
        known = [ref.name for ref in all_refs(self._refs)] + list(self._aliases)
        return [HOST, *(ImageReference.parse(name).familiar for name in known)]

    async def import_(
        self, reference: str, source: Path, *, manifest_digest: str | None = None
    ) -> ImageRecord:
        """Import a directory, tar, OCI layout or `docker save` archive under a name.

        An image that had the name before keeps running where it runs; the name means the new one
        from now on. `manifest_digest` is told by whoever pulled it. Cancelling leaves nothing.

        Raises:
            InvalidImageError: the name or the source cannot be used.
            TooLargeError: it is larger than the limits.
            DigestMismatchError: a blob holds other bytes than its name says.
        """
        stop = threading.Event()
        work = asyncio.create_task(
            asyncio.to_thread(self._import, _importable(reference), source, manifest_digest, stop)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(work, return_exceptions=True)
            raise

    async def remove(self, reference: str) -> None:
        """Forget a name, and its tree when no other name stands for it.

        Raises:
            ImageNotFoundError: no image of that name was imported.
            WrongStateError: it is in use.
        """
        await asyncio.to_thread(self._remove, _importable(reference).name)

    def hold(self, digest: str) -> Callable[[], None]:
        """Keep a tree from being removed until the returned function is called.

        Raises:
            ImageNotFoundError: it is gone.
        """
        if digest == HOST:
            return lambda: None
        tree = self._tree(digest)
        try:
            self._holds.take(tree)
        except FileNotFoundError:
            raise ImageNotFoundError(f"the image {digest} was removed") from None
        return _once(lambda: self._holds.release(tree))

    def reclaim(self) -> ImageReclaim:
        """Take away what imports that died left behind, and trees that no name stands for."""
        with self._changing():
            named = {self._tree(ref.digest) for ref in all_refs(self._refs)}
            orphans = [
                tree for tree in self._trees.iterdir() if tree not in named and not is_held(tree)
            ]
            for tree in orphans:
                tree.rename(self._tmp / f"dead-{secrets.token_hex(8)}")
        dead = [place for place in self._tmp.iterdir() if not is_held(place)]
        for place in dead:
            _delete(place)
        return ImageReclaim(imports=len(dead) - len(orphans), trees=len(orphans))

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Make a directory that is ours for now; if we die, `reclaim` takes it away."""
        with self._changing(is_change=False):
            place = self._tmp / f"import-{secrets.token_hex(8)}"
            place.mkdir(mode=0o700)
            lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            if place.exists():
                _delete(place)
            os.close(lock)

    def _find(self, reference: str) -> RootFilesystem:
        if reference == HOST:
            return _HOST_ROOT
        if is_digest(reference):
            return self._load(reference)
        parsed = ImageReference.parse(reference)
        ref = read_record(ref_path(self._refs, parsed.name), RefRecord)
        if ref is not None and parsed.digest in (None, ref.digest, ref.manifest_digest):
            return self._load(ref.digest)
        target = self._aliases.get(parsed.name) if parsed.digest is None else None
        if target is not None and _normal(target) not in self._aliases:
            return self._find(target)
        raise ImageNotFoundError(
            f"there is no image {reference!r} here",
            hint=f"faas images pull {reference}   or   faas images import {reference} FILE",
            details={"image": reference},
        )

    def _load(self, digest: str) -> RootFilesystem:
        tree = self._tree(digest)
        record = read_record(tree / "config.json", TreeRecord)
        if record is None:
            raise ImageNotFoundError(f"there is no image {digest} here")
        return RootFilesystem(
            digest=record.digest,
            path=tree / "rootfs",
            env=record.config.env,
            working_dir=record.config.working_dir,
            user=record.config.user,
            entrypoint=record.config.entrypoint,
        )

    def _tree(self, digest: str) -> Path:
        return self._trees / digest.removeprefix("sha256:")

    def _look_at_generation(self) -> tuple[int, int] | None:
        try:
            info = os.stat(self._generation_name)  # noqa: PTH116  on every execution's path
        except FileNotFoundError:
            return None
        return info.st_ino, info.st_mtime_ns

    def _import(
        self,
        reference: ImageReference,
        source: Path,
        manifest_digest: str | None,
        stop: threading.Event,
    ) -> ImageRecord:
        def check() -> None:
            if stop.is_set():
                raise _StoppedError

        with self.scratch() as scratch:
            with open_source(source, scratch=scratch, limits=self._limits) as image:
                tree = self._unpack(image, scratch, check)
                kind = "registry" if manifest_digest else image.kind.value
                manifest_digest = manifest_digest or image.manifest_digest
            if reference.digest not in (None, tree.digest, manifest_digest):
                raise DigestMismatchError(f"what was imported is not {reference.digest}")
            _sync_file_system(scratch)
            check()
            ref = RefRecord(
                name=reference.name,
                digest=tree.digest,
                source=kind,
                imported_at=self._clock.now(),
                manifest_digest=manifest_digest,
            )
            self._commit(scratch, tree, ref)
        return ImageRecord(
            reference.familiar,
            tree.digest,
            tree.size_bytes,
            ref.imported_at,
            kind,
            manifest_digest,
        )

    def _unpack(self, image: ImageSource, scratch: Path, check: Callable[[], None]) -> TreeRecord:
        rootfs = scratch / "rootfs"
        rootfs.mkdir(mode=0o755)
        with TreeWriter(rootfs, limits=self._limits, check=check) as writer:
            for layer in image.layers:
                with layer() as data:
                    writer.apply(data.entries, data.read_data)
            writer.finish()
        record = _describe(rootfs, image.config, writer.counts, check)
        write_record(scratch / "config.json", record)
        return record

    def _commit(self, scratch: Path, tree: TreeRecord, ref: RefRecord) -> None:
        with self._changing():
            final = self._tree(tree.digest)
            if not (final / "config.json").exists():
                scratch.rename(final)
                sync_directory(self._trees)
            write_record(ref_path(self._refs, ref.name), ref)

    def _remove(self, name: str) -> None:
        with self._changing():
            path = ref_path(self._refs, name)
            ref = read_record(path, RefRecord)
            if ref is None:
                raise ImageNotFoundError(f"no image {name!r} was imported here")
            tree = self._tree(ref.digest)
            others = any(r.digest == ref.digest and r.name != name for r in all_refs(self._refs))
            if not others and is_held(tree):
                raise WrongStateError(
                    f"the image {name!r} is in use",
                    hint="wait for its executions to end and its pool to empty, then try again",
                )
            path.unlink()
            sync_directory(self._refs)
            dead = self._tmp / f"dead-{secrets.token_hex(8)}"
            if not others and tree.exists():
                tree.rename(dead)
        if dead.exists():
            _delete(dead)

    @contextmanager
    def _changing(self, *, is_change: bool = True) -> Generator[None]:
        """Keep every other process from changing names and trees meanwhile."""
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            if is_change:
                fresh = self._directory / ".generation.new"
                fresh.write_bytes(b"")
                fresh.replace(self._directory / "generation")
        finally:
            os.close(lock)


class _StoppedError(FaasError):
    """The import was cancelled."""


def _describe(
    rootfs: Path, config: ImageConfig, counts: UnpackCounts, check: Callable[[], None]
) -> TreeRecord:
    root = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not names(root):
            raise InvalidImageError("the image is empty")
        config = ImageConfig(
            env=config.env,
            working_dir=config.working_dir,
            user=resolve_user(config.user, root),
            entrypoint=config.entrypoint,
            cmd=config.cmd,
        )
        return TreeRecord(
            digest=tree_digest(root, config, check=check),
            config=config,
            size_bytes=counts.size_bytes,
            entries=counts.entries,
            skipped=counts.skipped,
        )
    finally:
        os.close(root)


def _normal(reference: str) -> str:
    if reference == HOST or is_digest(reference):
        return reference
    return ImageReference.parse(reference).name


def _importable(reference: str) -> ImageReference:
    if reference == HOST or is_digest(reference):
        raise InvalidImageError(
            f"{reference[:80]!r} is not a name an image can have",
            hint="name it like python:3.11-slim",
        )
    return ImageReference.parse(reference)


def _delete(place: Path) -> None:
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        clear(os.fsencode(place.name), at=directory)
    finally:
        os.close(directory)


def _sync_file_system(path: Path) -> None:
    """Flush the file system: one call, where fsync of each file takes seconds."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None or syncfs(directory) != 0:
            os.sync()
    finally:
        os.close(directory)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    pending = [action]

    def run() -> None:
        if pending:
            pending.pop()()

    return run
