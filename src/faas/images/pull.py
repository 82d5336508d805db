"""Pull images from registries, by skopeo.

The registry is asked once what the name means (its manifest digest), that digest is fetched into an
OCI layout, and the layout is imported like any other. Credentials are the ones `docker login` or
`skopeo login` stored, or those of the request; the latter go to skopeo by a private file, never by
its arguments, and are never logged. Pulls of one image at one time are one pull.
"""

import asyncio
import base64
import hashlib
import os
import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import msgspec

from faas.errors import (
    DeadlineExceededError,
    FaasError,
    ImageNotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from faas.images.reference import ImageReference
from faas.images.store import ImageRecord, ImageStore

_STDERR_BYTES_MAX = 64 << 10
_MANIFEST_BYTES_MAX = 4 << 20
_TIMEOUT_SECONDS = 900.0
"""Chosen for a 5 GiB image over 50 Mbit/s; callers with a deadline cancel earlier."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials for one registry, for one pull."""

    username: str
    password: str = field(repr=False)


class ImagePuller:
    """Pulls into one store."""

    def __init__(
        self,
        store: ImageStore,
        *,
        program: str = "skopeo",
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._store = store
        self._program = program
        self._timeout_seconds = timeout_seconds
        self._running: dict[tuple[str, RegistryLogin | None], _Shared] = {}

    async def pull(self, reference: str, *, login: RegistryLogin | None = None) -> ImageRecord:
        """Fetch an image and import it under its name.

        Raises:
            InvalidImageError: it is no image name.
            ImageNotFoundError: the registry has no such image.
            PermissionDeniedError: the registry wants other credentials.
            UnavailableError: the registry cannot be reached.
            UnsupportedError: skopeo is not installed.
            DeadlineExceededError: it took too long.
        """
        parsed = ImageReference.parse(reference)
        key = (str(parsed), login)
        shared = self._running.get(key)
        if shared is None:
            shared = self._running[key] = _Shared(
                asyncio.create_task(self._pull_in_time(parsed, login))
            )
            shared.task.add_done_callback(lambda _: self._running.pop(key, None))
        return await shared.join()

    async def _pull_in_time(
        self, reference: ImageReference, login: RegistryLogin | None
    ) -> ImageRecord:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._pull(reference, login)
        except TimeoutError:
            raise DeadlineExceededError(
                f"pulling {reference.familiar} took longer than {self._timeout_seconds:g} s"
            ) from None

    async def _pull(self, reference: ImageReference, login: RegistryLogin | None) -> ImageRecord:
        program = shutil.which(self._program)
        if program is None:
            raise UnsupportedError(
                "pulling needs skopeo, which is not installed", hint="apt-get install skopeo"
            )
        with self._place(reference, login) as (place, options):
            manifest = await _run(
                [program, "inspect", "--raw", *options.inspect, options.source], reference
            )
            digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            pinned = f"docker://{reference.registry}/{reference.repository}@{digest}"
            layout = place / "layout"
            command = [program, "--insecure-policy", "copy", "--quiet", *options.copy]
            await _run([*command, pinned, f"oci:{layout}:image"], reference)
            return await self._store.import_(str(reference), layout, manifest_digest=digest)

    @contextmanager
    def _place(
        self, reference: ImageReference, login: RegistryLogin | None
    ) -> Generator[tuple[Path, "_Options"]]:
        with self._store.scratch() as place:
            inspect, copy = [], []
            if login is not None:
                auth_file = place / "auth.json"
                _write_login(auth_file, reference.registry, login)
                inspect = copy = ["--authfile", str(auth_file)]
            if _is_loopback(reference.registry):
                inspect, copy = [*inspect, "--tls-verify=false"], [*copy, "--src-tls-verify=false"]
            tagged = f"docker://{reference.registry}/{reference.repository}"
            suffix = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
            yield place, _Options(tuple(inspect), tuple(copy), tagged + suffix)


@dataclass(frozen=True, slots=True)
class _Options:
    inspect: tuple[str, ...]
    copy: tuple[str, ...]
    source: str


class _Shared:
    """One pull that several callers wait for; it is cancelled when the last of them goes."""

    def __init__(self, task: asyncio.Task[ImageRecord]) -> None:
        self.task = task
        self._waiting = 0

    async def join(self) -> ImageRecord:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self._waiting == 1 and not self.task.done():
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)
            raise
        finally:
            self._waiting -= 1


def _write_login(path: Path, registry: str, login: RegistryLogin) -> None:
    token = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    key = "https://index.docker.io/v1/" if registry == "docker.io" else registry
    content = msgspec.json.encode({"auths": {key: {"auth": token}}})
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _is_loopback(registry: str) -> bool:
    """Registries on this machine may speak plain HTTP, as for the Docker Engine."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _run(argv: list[str], reference: ImageReference) -> bytes:
    """Run skopeo and return what it printed; its whole process group dies with us."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101  PIPE was asked for
    assert child.stderr is not None  # noqa: S101
    try:
        output, complaint = await asyncio.gather(
            _read(child.stdout, _MANIFEST_BYTES_MAX), _read(child.stderr, _STDERR_BYTES_MAX)
        )
        code = await child.wait()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if code != 0:
        raise _explain(reference, complaint.decode("utf-8", "replace"))
    return output


async def _read(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Read to the end, keeping the first bytes."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: max(0, bytes_max - len(kept))]
    return bytes(kept)


_SAID: tuple[tuple[tuple[str, ...], type[FaasError], str, str], ...] = (
    (
        ("manifest unknown", "name unknown", "not found", "repository does not exist"),
        ImageNotFoundError,
        "the registry has no image {name}",
        "check the name and tag; private images need docker login",
    ),
    (
        ("unauthorized", "authentication required", "denied", "invalid username/password"),
        PermissionDeniedError,
        "the registry does not give {name} to these credentials",
        "docker login REGISTRY, or pass a login with the request",
    ),
    (
        ("no space left",),
        UnavailableError,
        "there is no room on disk for {name}",
        "df -h, then faas images remove NAME",
    ),
)
"""What skopeo says, by parts of its last message, and what it means. The first that fits."""


def _explain(reference: ImageReference, complaint: str) -> FaasError:
    said = complaint.lower()
    for parts, kind, message, hint in _SAID:
        if any(part in said for part in parts):
            return kind(message.format(name=reference.familiar), hint=hint)
    last = complaint.strip().splitlines()[-1:] or ["skopeo said nothing"]
    return UnavailableError(
        f"{reference.familiar} cannot be pulled from {reference.registry}",
        hint="check the network, or import a file: faas images import NAME FILE",
        details={"skopeo": last[0][-500:]},
    )
