"""The names of images: parse what people type, and give every name one normal form.

`alpine`, `alpine:latest` and `docker.io/library/alpine:latest` are the same image. The grammar is
the one registries use; what it leaves out (upper case in repositories, empty parts) is refused with
a hint. `host` is not an image reference: the store answers it before anything is parsed.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from faas.errors import InvalidImageError

HOST = "host"
"""The name of the machine's own file system; never an imported image."""

_DEFAULT_REGISTRY = "docker.io"
_DEFAULT_TAG = "latest"
_LENGTH_MAX = 200
"""A normal form becomes a file name with `/` and `:` quoted, and file names end at 255 bytes."""

_REGISTRY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
    r"|\[[0-9a-f:]+\])(?::[0-9]{1,5})?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One image name, every default filled in."""

    registry: str
    repository: str
    tag: str
    digest: str | None = None
    """The registry's digest, when the name pins one."""

    @classmethod
    def parse(cls, text: str) -> "ImageReference":
        """Read a name as people type it.

        Raises:
            InvalidImageError: it is no image name; the hint says why.
        """
        if not text or len(text) > _LENGTH_MAX or not text.isprintable() or " " in text:
            _refuse(text, f"a name has 1 to {_LENGTH_MAX} printable characters and no space")
        rest, at, digest = text.partition("@")
        if at and not is_digest(digest):
            _refuse(text, "after @ comes sha256: and 64 hexadecimal digits")
        rest, tag = _split_tag(rest)
        if tag is not None and not _TAG.fullmatch(tag):
            _refuse(text, "a tag is up to 128 letters, digits, dots, dashes and underscores")
        registry, repository = _split_registry(rest)
        if not _REGISTRY.fullmatch(registry):
            _refuse(text, "a registry is a lower-case host name with an optional port")
        if not all(_PART.fullmatch(part) for part in repository.split("/")):
            _refuse(text, "names are lower case, like python:3.11-slim or ghcr.io/owner/name:tag")
        return cls(registry, repository, tag or _DEFAULT_TAG, digest or None)

    @property
    def name(self) -> str:
        """The normal form without the digest: `docker.io/library/alpine:latest`."""
        return f"{self.registry}/{self.repository}:{self.tag}"

    @property
    def familiar(self) -> str:
        """The short form people know: `alpine:latest`."""
        repository = self.repository
        if self.registry == _DEFAULT_REGISTRY:
            repository = repository.removeprefix("library/")
        else:
            repository = f"{self.registry}/{repository}"
        return f"{repository}:{self.tag}"

    def __str__(self) -> str:
        return self.name if self.digest is None else f"{self.name}@{self.digest}"


def _split_tag(text: str) -> tuple[str, str | None]:
    """Cut the tag off; a colon before the last slash is a registry's port."""
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (text, None)


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry = _DEFAULT_REGISTRY if first == "index.docker.io" else first
    else:
        registry, rest = _DEFAULT_REGISTRY, text
    if registry == _DEFAULT_REGISTRY and "/" not in rest:
        rest = f"library/{rest}"
    return registry, rest


def _refuse(text: str, hint: str) -> NoReturn:
    raise InvalidImageError(
        f"{text[:80]!r} is not an image name", hint=hint, details={"image": text[:80]}
    )
