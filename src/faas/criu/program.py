"""CRIU, as it is run inside a sandbox: where it lies, what it is told, what its words mean.

`native/checkpoint.c` shows CRIU its own tree and the folder of images at `/proc/fs`, where nobody
in the sandbox can look. Nothing of the sandbox's own files may be loaded or executed by it, for it
is root of the host: so no configuration files, a plug-in folder that is empty, its own libraries
and its own loader (a copy that does not look at `/etc/ld.so.preload`, which is the sandbox's), no
lock on the network (there is none to the outside, and the tool for it would be the sandbox's), and
what it found out about the kernel is a file the sandbox can neither change nor replace
(`sandbox_plan`).
"""

import os
import re
import struct
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faas.errors import (
    ConflictError,
    FaasError,
    SandboxBrokenError,
    StoreUnavailableError,
    UnsupportedError,
)

PLACE = "/proc/fs"
IMAGES = f"{PLACE}/images"
FIRST_FD = 10
"""Where descriptors handed over begin in CRIU, as in checkpoint.c."""
HINT = "scripts/criu.sh DIRECTORY, then set criu_prefix to it; `faas doctor` says more"
PIDS_OF_CRIU = 1_000
"""CRIU and its helpers take numbers up to here while they restore; what is restored lies above."""
_LOG_BYTES_MAX = 64 << 10
_GHOST_BYTES_MAX = 64 << 20
"""Of a file that is open and has no name any more: kept with the memory."""
_COLLECT_SECONDS = 20
_CHECK_SECONDS = 30.0
_VERSION_MIN = (4, 0)
_LEARNING = threading.Lock()
"""Runtimes of one gateway start together and share what it finds out."""
_LOADERS = (
    "usr/lib64/ld-linux-x86-64.so.2",
    "lib64/ld-linux-x86-64.so.2",
    "usr/lib/ld-linux-aarch64.so.1",
    "lib/ld-linux-aarch64.so.1",
)


@dataclass(frozen=True, slots=True)
class Criu:
    """An installed CRIU: its tree, and the start of every command line inside it."""

    tree: Path
    version: str
    kdat: Path
    """What it found out about this kernel: 25 ms saved at each start."""
    preload: Path
    """What is loaded into it first: native/preload/criu.c."""
    start: tuple[str, ...]
    """Loader, libraries and program, relative to the tree."""

    def argv(self, *arguments: str) -> list[str]:
        """The command line inside a sandbox."""
        root = f"{PLACE}/tree"
        loader, libraries, program = self.start
        paths = ":".join(f"{root}/{path}" for path in libraries.split(":"))
        preload = ("--preload", f"{PLACE}/preload.so")
        return [
            f"{root}/{loader}", "--library-path", paths, *preload, f"{root}/{program}", *arguments,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One run in one sandbox, as the launcher reads it."""

    tree: Path
    images: Path
    preload: Path
    argv: Sequence[str]
    user: int
    """The host's number of the sandbox's processes."""
    groups: Sequence[str] = ()
    """`cgroup.procs` files of what is restored."""
    last_pid_after: int = 0
    last_pid_before: int = 0
    """With no `argv` it is all that is set, and nothing is run."""

    def encoded(self) -> bytes:
        """The request without its head."""
        return b"".join(
            [
                _string(self.tree),
                _string(self.images),
                _string(self.preload),
                struct.pack("<III", self.user, self.last_pid_before, self.last_pid_after),
                struct.pack("<I", len(self.groups)),
                *map(_string, self.groups),
                struct.pack("<I", len(self.argv)),
                *map(_string, self.argv),
            ]
        )


def dump_arguments(pid: int, external: Sequence[str]) -> list[str]:
    """Take a tree of processes and leave it standing still; `external` is held by others."""
    held = [word for resource in external for word in ("--external", resource)]
    return [
        "dump", *_COMMON, "--tree", str(pid), "--leave-stopped",
        "--log-file", "dump.log", "--timeout", str(_COLLECT_SECONDS),
        "--ghost-limit", str(_GHOST_BYTES_MAX), *held,
    ]  # fmt: skip


def restore_arguments(inherited: Sequence[str]) -> list[str]:
    """Make a tree of processes again; `inherited` names what the handed descriptors stand for."""
    handed = [
        word
        for number, resource in enumerate(inherited, FIRST_FD)
        for word in ("--inherit-fd", f"fd[{number}]:{resource}")
    ]
    return ["restore", *_COMMON, "--restore-detached", "--log-file", "restore.log", *handed]


_COMMON = (
    "--no-default-config", "--images-dir", IMAGES, "--libdir", f"{PLACE}/plugins",
    "--manage-cgroups=ignore", "--network-lock", "skip", "--file-locks", "--tcp-established",
    "--shell-job", "-v2",
)  # fmt: skip


def find(prefix: Path | None, cache: Path, *, preload: Path) -> Criu:
    """Look at the CRIU below `prefix` (made by scripts/criu.sh) and let it learn this kernel.

    Raises:
        UnsupportedError: there is none that works here.
    """
    if not preload.is_file():
        raise UnsupportedError("the native program is not built", hint="make native")
    if prefix is None or not (prefix / "criu").is_file():
        raise UnsupportedError("CRIU is not installed", hint=HINT)
    tree = (prefix / "root").resolve()
    loader = next((path for path in _LOADERS if (tree / path).exists()), None)
    if loader is not None:  # as a plain file of the tree: no link may lead into the sandbox
        loader = os.path.relpath((tree / loader).resolve(), tree)
    program = next((p for p in ("usr/sbin/criu", "usr/bin/criu") if (tree / p).is_file()), None)
    if loader is None or program is None:
        raise UnsupportedError(f"there is no CRIU in {prefix.name}", hint=HINT)
    libraries = sorted(
        str(path.relative_to(tree))
        for lib in ("usr/lib", "lib")
        for path in (tree / lib).glob("*-linux-gnu")
    )
    version = _version(prefix / "criu")
    kdat = _learn(prefix / "criu", cache)
    return Criu(tree, version, kdat, preload, (loader, ":".join(libraries), program))


def _version(wrapper: Path) -> str:
    said = _output([str(wrapper), "--version"])
    found = re.search(rb"Version: (\d+)\.(\d+)[.\d]*", said)
    if found is None:
        raise UnsupportedError("CRIU does not run on this machine", hint=HINT)
    version = found.group().removeprefix(b"Version: ").decode()
    if (int(found[1]), int(found[2])) < _VERSION_MIN:
        raise UnsupportedError(f"CRIU {version} is too old; 4.0 is needed", hint=HINT)
    return version


def _learn(wrapper: Path, cache: Path) -> Path:
    with _LEARNING:
        return _learn_once(wrapper, cache)


def _learn_once(wrapper: Path, cache: Path) -> Path:
    """CRIU writes what it finds out only to a /run that is a tmpfs: give it one of its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kdat = cache / f"{boot}.kdat"
    if kdat.is_file() and kdat.stat().st_mtime >= wrapper.stat().st_mtime:
        return kdat
    script = 'mount -t tmpfs none /run && "$0" check >&2; cat /run/criu.kdat'
    learnt = _output(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(wrapper)]
    )
    if not learnt:
        raise UnsupportedError(
            "CRIU finds that this kernel lacks what it needs", hint=f"{wrapper} check"
        )
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    for old in cache.glob("*.kdat"):
        old.unlink(missing_ok=True)
    staged = kdat.with_suffix(f".{os.getpid()}.tmp")
    staged.write_bytes(learnt)
    staged.chmod(0o444)
    staged.rename(kdat)
    return kdat


def _output(argv: list[str]) -> bytes:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout


_FREE_BYTES_MIN = 1 << 20
"""With less, what was being written is what used it up."""

_REASONS = (
    (r"nvidia|/dev/dri|/dev/kfd", "it uses a GPU"),
    (r"External socket is used|unix.*extern|Ext stream not supported|not connected in the tree",
     "it has a socket whose other end is outside of what is kept"),
    (r"in-flight|connected TCP socket|tcp-established|SYN_SENT", "it has a connection under way"),
    (r"[Uu]nsupported (?:address )?family|protocol.*not supported|BUG at criu/sockets",
     "it has a socket of a kind that cannot be kept"),
    (r"io_uring|aio", "it uses asynchronous input and output of the kernel"),
    (r"tty|pts", "it has a terminal that cannot be kept"),
    (r"SysVIPC shmem map|IPC ns", "it uses System V shared memory"),
    (r"Can't dump ghost file .* size", "it has a deleted file open that is too large"),
    (r"link-remap|Can't create link remap|Can't dump unlinked",
     "it has a file open whose name was taken away"),
    (r"userfaultfd|perf_event|bpf|fanotify|pidfd",
     "it has an object of the kernel that cannot be kept"),
    (r"Can't look up|Can't find path|mnt_id|bad mount", "it has a file open that it cannot reach"),
    (r"is being (?:traced|debugged)|ptrace", "it is being traced"),
)  # fmt: skip


def why_not_taken(log: Path) -> FaasError:
    """Translate what CRIU said when it did not take a tree; the tree runs on."""
    said = _errors(log)
    if "No space left" in said or _is_full(log.parent):  # its log may not have found room either
        return StoreUnavailableError(
            "the memory cannot be kept: no space left on the disk",
            hint="free some disk space, or set FAAS_DATA_DIR to a larger disk",
        )
    for pattern, reason in _REASONS:
        if re.search(pattern, said):
            return UnsupportedError(
                f"the memory cannot be kept: {reason}",
                hint="keep the files only (memory: false), or end what uses it first",
                details={"criu": said[-600:]},
            )
    return UnsupportedError(
        "the memory cannot be kept: a process is in a state that CRIU does not take",
        hint="keep the files only (memory: false)",
        details={"criu": said[-600:]},
    )


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _FREE_BYTES_MIN


def why_not_restored(log: Path) -> FaasError:
    """Translate what CRIU said when it did not restore a tree."""
    said = _errors(log)
    if re.search(r"bad size|bad mode|build-id|buildid|Can't open file|No such file", said):
        return ConflictError(
            "the memory does not fit the files here: a file it uses is another one",
            hint="restore it on the machine and image it was taken from, or its files only",
            details={"criu": said[-600:]},
        )
    if re.search(r"cpu|CPU|xsave|fpu", said):
        return ConflictError(
            "the memory was taken on another kind of processor", details={"criu": said[-600:]}
        )
    return SandboxBrokenError("the memory could not be restored", details={"criu": said[-600:]})


def _errors(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES_MAX))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    worst = [line for line in lines if "Error" in line or line.startswith("runner:")]
    return "\n".join(worst or lines[-3:])


def _string(text: str | Path) -> bytes:
    raw = os.fsencode(text)
    return struct.pack("<I", len(raw)) + raw
