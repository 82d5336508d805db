"""The tools whose caches are kept: where each cache lies in a sandbox, and how the tool is told."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

ROOT = "/tmp/.faas-caches"  # noqa: S108  inside the sandbox, where every runtime lets everybody write


class CacheName(StrEnum):
    """A tool, as requests name it."""

    PIP = "pip"
    NPM = "npm"
    CARGO = "cargo"
    GO = "go"


class Hash(Protocol):
    """A running digest."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Check:
    """A digest that a file's own name promises."""

    hash: Hash
    expected: str


def _no_check(_: str) -> Check | None:
    return None


@dataclass(frozen=True, slots=True)
class CacheKind:
    """One tool's cache."""

    name: CacheName
    env: Mapping[str, str]
    """How the tool is told; what the request itself sets wins."""
    kept: tuple[str, ...] = ("",)
    """Directories of it that are kept; the rest (locks, settings, programs) is the run's own."""
    left_out: tuple[str, ...] = ()
    """Ends of names that are not kept all the same: what the tool would believe unchecked."""
    check_of: Callable[[str], Check | None] = field(default=_no_check)
    """What a file's content must hash to, where its name says so."""

    @property
    def path(self) -> str:
        """Where it lies in a sandbox."""
        return f"{ROOT}/{self.name.value}"

    def keeps(self, name: str) -> bool:
        """Whether a file of it is kept."""
        is_below = any(not top or name.startswith(top + "/") for top in self.kept)
        return is_below and not name.endswith(self.left_out)


def _npm_check(name: str) -> Check | None:
    """`_cacache/content-v2/sha512/aa/bb/rest`: the digest, cut in three."""
    parts = name.split("/")
    if parts[:2] != ["_cacache", "content-v2"]:
        return None
    algorithm, digest = parts[2] if len(parts) > 2 else "", "".join(parts[3:])  # noqa: PLR2004
    if algorithm not in {"sha1", "sha256", "sha384", "sha512"} or len(parts) != 6:  # noqa: PLR2004
        return Check(hashlib.sha256(), "")
    return Check(hashlib.new(algorithm, usedforsecurity=False), digest)


_GO_OUTPUT = re.compile(r"build/[0-9a-f]{2}/([0-9a-f]{64})-d")


def _go_check(name: str) -> Check | None:
    """`build/ab/abcd…-d` is what a compilation gave, named by its SHA-256."""
    found = _GO_OUTPUT.fullmatch(name)
    return None if found is None else Check(hashlib.sha256(), found[1])


def _at(name: str, rest: str = "") -> str:
    return f"{ROOT}/{name}{rest}"


KINDS: Mapping[CacheName, CacheKind] = {
    kind.name: kind
    for kind in (
        CacheKind(CacheName.PIP, {"PIP_CACHE_DIR": _at("pip")}),
        CacheKind(
            CacheName.NPM, {"npm_config_cache": _at("npm")}, ("_cacache",), check_of=_npm_check
        ),
        CacheKind(
            CacheName.CARGO,
            {"CARGO_HOME": _at("cargo")},
            ("registry/index", "registry/cache", "git/db"),
        ),
        CacheKind(
            CacheName.GO,
            {"GOMODCACHE": _at("go", "/mod"), "GOCACHE": _at("go", "/build")},
            ("mod/cache/download", "build"),
            # Without it go hashes the zip itself and compares that with go.sum.
            left_out=(".ziphash", ".lock"),
            check_of=_go_check,
        ),
    )
}
