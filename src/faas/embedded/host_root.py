"""The image `host`: the machine's own programs, read-only, and nothing that is secret.

/usr is the host's. /etc is a tree of our own, built once a start from an allow-list: what programs
need to find their libraries, certificates, users and time zone. Everything else is empty.
"""

import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from faas.embedded.plan import Bind, Dev, Directory, Op, Proc, RootTmpfs, Symlink

_PAGE_BYTES = 4096
_INODES_MIN, _INODES_MAX = 4_096, 1 << 20

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_COPIED = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "issue",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "protocols",
    "python3",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
_COPIED_PATTERNS = ("java*", "jvm*", "python3.*")
_FILE_BYTES_MAX = 4 << 20
"""Nothing programs need in /etc is larger; a log or a data base somebody left there may be."""
_OWN = {
    "passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "user:x:1000:1000:user:/home/user:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 sandbox\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
    "shells": "/bin/sh\n/bin/bash\n",
    "profile": 'export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"\n',
}

_DIRECTORIES = (
    Directory("/usr"),
    Directory("/etc"),
    Directory("/proc"),
    Directory("/dev"),
    Directory("/sys"),
    Directory("/sys/devices"),
    Directory("/sys/devices/system"),
    Directory("/sys/devices/system/cpu"),
    Directory("/run"),
    Directory("/mnt"),
    Directory("/opt"),
    Directory("/srv"),
    Directory("/var"),
    Directory("/var/cache"),
    Directory("/var/lib"),
    Directory("/var/log"),
    Directory("/home"),
    Directory("/root", 0o700),
    Directory("/home/user", 0o777),
    Directory("/workspace", 0o777),
    Directory("/tmp", 0o1777),  # noqa: S108  the sandbox's own
    Directory("/var/tmp", 0o1777),  # noqa: S108  the sandbox's own
)


def host_ops(etc: Path, *, disk_bytes: int, host: Path = Path("/")) -> list[Op]:
    """List the steps that make the root of the image `host`; `etc` was made by `build_etc`."""
    return [
        RootTmpfs(size_bytes=disk_bytes, inodes=inodes_for(disk_bytes)),
        *_DIRECTORIES,
        Symlink("/run", "/var/run"),
        *_merged_ops(host),
        Bind(host / "usr", "/usr"),
        Bind(etc, "/etc"),
        Bind(host / "sys/devices/system/cpu", "/sys/devices/system/cpu"),
        Proc(),
        Dev(),
    ]


def inodes_for(disk_bytes: int) -> int:
    """Return how many files a disk of that size may hold: an empty file costs memory too."""
    return max(_INODES_MIN, min(_INODES_MAX, disk_bytes // _PAGE_BYTES))


def _merged_ops(host: Path) -> Iterator[Op]:
    """/bin and its kin: links where the host has links, directories where it has those."""
    for name in _MERGED:
        path = host / name
        if path.is_symlink():
            yield Symlink(str(path.readlink()), f"/{name}")
        elif path.is_dir():
            yield Directory(f"/{name}")
            yield Bind(path, f"/{name}")


def build_etc(target: Path, *, source: Path = Path("/etc"), resolv_conf: str = "") -> Path:
    """Build the synthetic /etc at `target`, anew, and return it.

    The name servers are there in every sandbox; those without a network cannot reach them.
    """
    staged = target.with_name(target.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, mode=0o755)
    for path in _wanted(source):
        _copy(path, staged / path.relative_to(source))
    for name, text in {**_OWN, "resolv.conf": resolv_conf}.items():
        (staged / name).unlink(missing_ok=True)
        (staged / name).write_text(text)
        (staged / name).chmod(0o644)
    (staged / "mtab").symlink_to("/proc/self/mounts")
    for directory in (staged, *(path for path in staged.rglob("*") if _is_directory(path))):
        directory.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return target


def _wanted(source: Path) -> Iterator[Path]:
    for name in _COPIED:
        path = source / name
        if path.is_symlink() or path.exists():
            yield path
    for pattern in _COPIED_PATTERNS:
        yield from source.glob(pattern)


def _copy(source: Path, target: Path) -> None:
    """Copy what anybody on the host may read; links are copied as links."""
    with suppress(OSError):  # a file that goes or cannot be read is not needed to start
        entry = source.lstat()
        if stat.S_ISDIR(entry.st_mode) and entry.st_mode & stat.S_IXOTH:
            target.mkdir(parents=True, exist_ok=True)
            for child in source.iterdir():
                _copy(child, target / child.name)
        elif stat.S_ISLNK(entry.st_mode):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink())
        elif _is_public(entry.st_mode) and entry.st_size <= _FILE_BYTES_MAX:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o644)


def _is_public(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
