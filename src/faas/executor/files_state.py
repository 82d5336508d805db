"""The files of a sandbox as one tar, out of it and into another.

What is kept is what differs from the image: of `host` every place that can be written (its programs
are the machine's own and read-only), of an imported image every path that is new or changed, and a
mark for every path that is gone. A tar of a sandbox is hostile: names are cleaned, only files,
directories and links are taken, and marks are made here, never read from the sandbox.

A changed file is found by kind, size, time (whole seconds), permissions and link target. What the
machine keeps for itself (`/proc`, `/sys`, `/dev`, `/run`) is left out.
"""

import asyncio
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from faas.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from faas.sandbox.guarded import save_archive
from faas.sandbox.protocols import FileKind, FileStat, RootFilesystem, Sandbox
from faas.snapshots.tree import GONE, clean_path

OF_THE_MACHINE = frozenset({"proc", "sys", "dev", "run"})
OF_HOST = frozenset({"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32"})
"""Of the image `host`: read-only in every sandbox, so never changed."""
_OPEN = ("home/user", "workspace")
_SHARED = ("tmp", "var/tmp")
MADE_IN_HOST = {
    **dict.fromkeys(("home", "mnt", "opt", "srv", "var", "var/cache", "var/lib", "var/log"), 0o755),
    **dict.fromkeys(_OPEN, 0o777),
    **dict.fromkeys(_SHARED, 0o1777),
    "root": 0o700,
}
"""Directories every sandbox of `host` has from the start, and their modes."""
LINKS_OF_HOST = {"var/run": "/run"}


async def capture(sandbox: Sandbox, root: RootFilesystem, target: Path) -> None:
    """Write what the sandbox's files differ in from its image to `target`, a tar.

    The sandbox may be running; then files that change meanwhile are as they were found.
    """
    skipped = OF_THE_MACHINE if root.path is not None else OF_THE_MACHINE | OF_HOST
    tops = [top for top in await sandbox.list_dir("/") if top.name not in skipped]
    with TemporaryDirectory(dir=target.parent, prefix="capture-") as scratch:
        pieces: list[tuple[FileStat, Path | None]] = []
        for number, top in enumerate(tops):
            piece = None
            if top.kind in (FileKind.FILE, FileKind.DIRECTORY):
                piece = Path(scratch) / str(number)
                await _take(sandbox, f"/{top.name}", piece)
            pieces.append((top, piece))
        await asyncio.to_thread(_join, pieces, root, target)


async def capture_places(sandbox: Sandbox, places: tuple[str, ...], target: Path) -> None:
    """Write the files of a sandbox that can be written in some places only to `target`, a tar.

    It has one user, so all of them are told as root's.
    """
    with TemporaryDirectory(dir=target.parent, prefix="capture-") as scratch:
        pieces: list[tuple[str, Path]] = []
        for number, place in enumerate(places):
            with suppress(NotFoundError):
                piece = Path(scratch) / str(number)
                await save_archive(sandbox, place, piece)
                pieces.append((f"{clean_path(place)}/", piece))
        await asyncio.to_thread(_join_places, pieces, target)


async def restore_places(sandbox: Sandbox, places: tuple[str, ...], tar: Path) -> None:
    """Bring a fresh sandbox to what `tar` keeps, all of which lies where it can be written.

    Raises:
        UnsupportedError: something lies elsewhere.
    """
    inside = tuple(f"{clean_path(place)}/" for place in places)
    with NamedTemporaryFile(dir=tar.parent, prefix=".taken-", suffix=".tar") as fitting:
        await asyncio.to_thread(_fit, tar, inside, Path(fitting.name))
        await sandbox.put_archive(Path(fitting.name), path="/")


def _fit(tar: Path, inside: tuple[str, ...], target: Path) -> None:
    with tarfile.open(tar, "r:") as source, tarfile.open(target, "w") as fitting:
        for member in source:
            if member.name.startswith(inside):
                if GONE not in member.pax_headers:  # what the image has there is hidden anyway
                    content = source.extractfile(member) if member.isreg() else None
                    fitting.addfile(member, content)
            elif not may_lie_outside(member.name, inside, is_folder=member.isdir()):
                raise UnsupportedError(
                    f"this state has {member.name[:80]}, which the runtime cannot write",
                    hint="restore it with the embedded runtime",
                )


def may_lie_outside(path: str, inside: tuple[str, ...], *, is_folder: bool) -> bool:
    """Whether an entry says nothing but that a directory that can be written is there."""
    return is_folder and any(place.startswith(f"{path}/") for place in inside)


async def restore(sandbox: Sandbox, tar: Path) -> None:
    """Bring a fresh sandbox of the same image to the state that `tar` keeps."""
    marks = await asyncio.to_thread(_marks, tar)
    await _remove(sandbox, marks)
    await sandbox.put_archive(tar, path="/")
    # Who unpacks does not know the marks and made empty files of them.
    await _remove(sandbox, [(path, what) for path, what in marks if what == "1"])


async def _remove(sandbox: Sandbox, marks: list[tuple[str, str]]) -> None:
    for path, _ in marks:
        with suppress(NotFoundError):
            await sandbox.remove(f"/{path}", recursive=True)


async def _take(sandbox: Sandbox, path: str, piece: Path) -> None:
    with piece.open("wb") as sink:
        async for chunk in sandbox.get_archive(path):
            await asyncio.to_thread(sink.write, chunk)


@dataclass(slots=True)
class _Image:
    """The tree a sandbox started from, to tell what was changed."""

    tree: Path | None
    seen: set[str] = field(default_factory=set[str])

    def has(self, member: tarfile.TarInfo) -> bool:
        """Whether the image has just this; either way it is remembered as present."""
        self._see(member.name)
        if self.tree is None:
            is_from_the_start = member.isdir() and member.name in MADE_IN_HOST
            return is_from_the_start or (member.issym() and member.name in LINKS_OF_HOST)
        try:
            found = os.lstat(self.tree / member.name)
        except OSError:
            return False
        if stat.S_IMODE(found.st_mode) & 0o777 != member.mode & 0o777 and not member.issym():
            return False
        if member.isdir():
            return stat.S_ISDIR(found.st_mode)
        if member.issym():
            is_link = stat.S_ISLNK(found.st_mode)
            return is_link and str((self.tree / member.name).readlink()) == member.linkname
        return (
            member.isreg()
            and stat.S_ISREG(found.st_mode)
            and found.st_size == member.size
            and int(found.st_mtime) == int(member.mtime)
        )

    def _see(self, path: str) -> None:
        while path and path not in self.seen:
            self.seen.add(path)
            path = path.rpartition("/")[0]

    def gone(self) -> Iterator[str]:
        """Paths of the image that are no more; what was below one of them is not listed."""
        if self.tree is None:
            return
        for folder, folders, files in os.walk(self.tree):
            at = os.path.relpath(folder, self.tree)
            prefix = "" if at == "." else f"{at}/"
            if not prefix:
                folders[:] = [name for name in folders if name not in OF_THE_MACHINE]
            missing = [name for name in folders if prefix + name not in self.seen]
            folders[:] = [name for name in folders if name not in missing]
            for name in (*missing, *files):
                if prefix + name not in self.seen and _is_kept(Path(folder) / name):
                    yield prefix + name


def _is_kept(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _join(pieces: list[tuple[FileStat, Path | None]], root: RootFilesystem, target: Path) -> None:
    try:
        _write(pieces, _Image(root.path), target)
    except tarfile.TarError as failure:
        raise InvalidArgumentError("the sandbox's files cannot be read as a tar") from failure


def _join_places(pieces: list[tuple[str, Path]], target: Path) -> None:
    try:
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as whole:
            for prefix, piece in pieces:
                _copy_as_roots(piece, prefix, whole)
    except tarfile.TarError as failure:
        raise InvalidArgumentError("the sandbox's files cannot be read as a tar") from failure


def _copy_as_roots(piece: Path, prefix: str, whole: tarfile.TarFile) -> None:
    with tarfile.open(piece, "r:") as part:
        for member in part:
            if member.isreg() or member.isdir() or member.issym() or member.islnk():
                fresh = _prefixed(member, prefix)
                fresh.uid = fresh.gid = 0
                whole.addfile(fresh, part.extractfile(member) if member.isreg() else None)


def _write(pieces: list[tuple[FileStat, Path | None]], image: _Image, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as whole:
        for top, piece in pieces:
            if top.kind is not FileKind.FILE:
                _add(whole, _member_of(top), image, None)
            if piece is not None:
                _copy(piece, "" if top.kind is FileKind.FILE else f"{top.name}/", whole, image)
        for path in image.gone():
            mark = tarfile.TarInfo(path)
            mark.pax_headers = {GONE: "1"}
            whole.addfile(mark)


def _copy(piece: Path, prefix: str, whole: tarfile.TarFile, image: _Image) -> None:
    with tarfile.open(piece, "r:") as part:
        for member in part:
            if member.issparse():  # a few bytes of it may say that it is as long as they like
                raise InvalidArgumentError("no agent of ours packs sparse files")
            content = part.extractfile(member) if member.isreg() else None
            _add(whole, _prefixed(member, prefix), image, content)


def _add(
    whole: tarfile.TarFile,
    member: tarfile.TarInfo,
    image: _Image,
    content: object,
) -> None:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return
    if not image.has(member):
        whole.addfile(member, content if member.isreg() else None)  # pyright: ignore[reportArgumentType]


def _member_of(top: FileStat) -> tarfile.TarInfo:
    member = tarfile.TarInfo(clean_path(top.name))
    member.mode, member.uid, member.gid = top.mode & 0o7777, top.uid, top.gid
    member.mtime = top.modified_ns // 10**9
    member.type = tarfile.DIRTYPE
    if top.kind is FileKind.SYMLINK:
        member.type, member.linkname = tarfile.SYMTYPE, top.link_target or ""
    elif top.kind is FileKind.OTHER:
        member.type = tarfile.FIFOTYPE
    return member


def _prefixed(member: tarfile.TarInfo, prefix: str) -> tarfile.TarInfo:
    """Copy what is told of an entry, and nothing else of it."""
    fresh = tarfile.TarInfo(clean_path(prefix + member.name))
    fresh.type, fresh.mode, fresh.size = member.type, member.mode, member.size
    fresh.uid, fresh.gid, fresh.mtime = member.uid, member.gid, member.mtime
    fresh.linkname = clean_path(prefix + member.linkname) if member.islnk() else member.linkname
    return fresh


def _marks(tar: Path) -> list[tuple[str, str]]:
    with tarfile.open(tar, "r:") as archive:
        return [
            (clean_path(member.name), member.pax_headers[GONE])
            for member in archive
            if GONE in member.pax_headers
        ]
