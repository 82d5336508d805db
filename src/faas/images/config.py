"""What an image says of how to run in it, and the shapes of the files that say so."""

from collections.abc import Iterable

import msgspec

from faas.errors import InvalidImageError
from faas.images.beneath import read_beneath

_ACCOUNT_BYTES_MAX = 1 << 20
"""Longest /etc/passwd or /etc/group read."""
_ENV_MAX = 1000


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=False):
    """The part of an image's configuration that changes how commands run."""

    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"
    user: str | None = None
    """`uid:gid`; names are looked up in the image when it is imported."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Names one blob."""

    digest: str
    size: int = -1
    media_type: str = ""
    platform: dict[str, object] | None = None
    annotations: dict[str, str] | None = None


class OciIndex(msgspec.Struct, frozen=True):
    """`index.json`, and an image index blob."""

    manifests: tuple[Descriptor, ...]


class OciManifest(msgspec.Struct, frozen=True):
    """An image manifest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class DockerManifest(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of the `manifest.json` that `docker save` writes."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class _Run(msgspec.Struct, frozen=True, rename="pascal"):
    env: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


class _Rootfs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class ConfigBlob(msgspec.Struct, frozen=True):
    """An image's configuration blob: OCI and Docker agree on what is read here."""

    config: _Run | None = None
    rootfs: _Rootfs = _Rootfs()

    def run_config(self) -> ImageConfig:
        """Take the part that changes how commands run.

        Raises:
            InvalidImageError: a variable or directory in it cannot be used.
        """
        run = self.config or _Run()
        working_dir = run.working_dir or "/"
        texts = [*(run.env or ()), *(run.entrypoint or ()), *(run.cmd or ()), working_dir]
        if any("\0" in text for text in texts) or not working_dir.startswith("/"):
            raise InvalidImageError("the image's configuration holds text that cannot be used")
        return ImageConfig(
            env=tuple(_variables(run.env or ())),
            working_dir=working_dir,
            user=run.user or None,
            entrypoint=run.entrypoint or (),
            cmd=run.cmd or (),
        )


def _variables(pairs: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    if len(pairs) > _ENV_MAX:
        raise InvalidImageError(f"the image sets more than {_ENV_MAX} variables")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name and equals:
            yield name, value


def resolve_user(user: str | None, root: int) -> str | None:
    """Turn `name`, `uid`, `name:group`… into `uid:gid` by the image's own accounts.

    Raises:
        InvalidImageError: the image has no such account.
    """
    if not user:
        return None
    name, _, group = user.partition(":")
    uid, gid = _look_up(root, b"passwd", name)
    if group:
        gid, _ = _look_up(root, b"group", group)
    return f"{uid}:{gid}"


def _look_up(root: int, table: bytes, wanted: str) -> tuple[int, int]:
    """Return fields 3 and 4 of the line that `wanted` names; a number may have no line."""
    for line in _lines(root, table):
        fields = line.split(":")
        if len(fields) >= 4 and wanted in (fields[0], fields[2]) and fields[2].isdigit():  # noqa: PLR2004
            return int(fields[2]), int(fields[3]) if fields[3].isdigit() else 0
    if wanted.isdigit() and int(wanted) < 2**32 - 1:
        return int(wanted), 0
    raise InvalidImageError(f"the image runs as {wanted[:64]!r}, an account it does not have")


def _lines(root: int, table: bytes) -> list[str]:
    content = read_beneath(root, (b"etc",), table, bytes_max=_ACCOUNT_BYTES_MAX)
    return (content or b"").decode("utf-8", "replace").splitlines()
