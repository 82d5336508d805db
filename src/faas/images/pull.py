"""Pull images from registries, by skopeo.

The registry is asked once what the name means (its manifest digest), that digest is fetched into an
OCI layout, and the layout is imported like any other. Credentials are the ones `docker login` or
`skopeo login` stored, or those of the request; the latter go to skopeo by a private file, never by
its arguments, and are never logged. Pulls of one image at one time are one pull, and each caller
hears how far it is.
"""

import asyncio
import base64
import hashlib
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
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
from faas.images.flights import Flights
from faas.images.records import ImageRecord
from faas.images.reference import ImageReference
from faas.images.store import ImageStore
from faas.model import PullStep
from faas.sandbox.image_keeper import RegistryLogin, Told

_STDERR_BYTES_MAX = 64 << 10
_MANIFEST_BYTES_MAX = 4 << 20
_TIMEOUT_SECONDS = 900.0
"""Chosen for a 5 GiB image over 50 Mbit/s; callers with a deadline cancel earlier."""
_ANSWER_SECONDS = 20.0
"""For a registry to say what a name means; one that is out of reach often says nothing at all."""
_LOOK_SECONDS = 0.25
"""Between looks at how much has come."""
_LAYER_CHARACTERS = 12


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
        self._flights: Flights[ImageRecord] = Flights()

    @property
    def is_installed(self) -> bool:
        """Whether there is a skopeo."""
        return shutil.which(self._program) is not None

    async def pull(
        self, reference: str, *, login: RegistryLogin | None = None, told: Told = lambda _: None
    ) -> ImageRecord:
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

        async def begin(told: Told) -> ImageRecord:
            return await self._pull_in_time(parsed, login, told)

        return await self._flights.join((str(parsed), login), begin, told)

    async def _pull_in_time(
        self, reference: ImageReference, login: RegistryLogin | None, told: Told
    ) -> ImageRecord:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._pull(reference, login, told)
        except TimeoutError:
            raise DeadlineExceededError(
                f"pulling {reference.familiar} took longer than {self._timeout_seconds:g} s"
            ) from None

    async def _pull(
        self, reference: ImageReference, login: RegistryLogin | None, told: Told
    ) -> ImageRecord:
        program = shutil.which(self._program)
        if program is None:
            raise UnsupportedError(
                "pulling needs skopeo, which is not installed", hint="apt-get install skopeo"
            )
        with self._place(reference, login) as (place, options):
            told(PullStep("Resolving"))
            manifest = await _asked(
                [program, "inspect", "--raw", *options.inspect, options.source], reference
            )
            digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            pinned = f"docker://{reference.registry}/{reference.repository}@{digest}"
            layout = place / "layout"
            command = [program, "--insecure-policy", "copy", *options.copy]
            async with _watched(layout, _layer_bytes(manifest), told):
                argv = [*command, pinned, f"oci:{layout}:image"]
                await _run(argv, reference, on_line=lambda line: _tell(line, told))
            told(PullStep("Unpacking"))
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


async def _asked(argv: list[str], reference: ImageReference) -> bytes:
    """Ask the registry a short question."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await _run(argv, reference)
    except TimeoutError:
        raise UnavailableError(
            f"the registry {reference.registry} does not answer",
            hint="check the network, or import a file: faas images import NAME FILE",
        ) from None


def _layer_bytes(manifest: bytes) -> int | None:
    """How much is to come; None for a list of manifests, which tells no sizes."""
    try:
        layers = msgspec.json.decode(manifest, type=_Manifest).layers
    except msgspec.MsgspecError:
        return None
    return sum(layer.size for layer in layers) or None


class _Layer(msgspec.Struct, frozen=True):
    size: int = 0


class _Manifest(msgspec.Struct, frozen=True):
    layers: tuple[_Layer, ...] = ()


@asynccontextmanager
async def _watched(layout: Path, total_bytes: int | None, told: Told) -> AsyncGenerator[None]:
    """Tell how much of an image has come, by what lies in the layout."""

    async def look() -> None:
        seen = -1
        while True:
            size = await asyncio.to_thread(_size_of, layout)
            if size != seen:
                seen = size
                told(PullStep("Downloading", None, size, total_bytes))
            await asyncio.sleep(_LOOK_SECONDS)

    watch = asyncio.create_task(look())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


def _size_of(directory: Path) -> int:
    size = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            size += path.lstat().st_size if path.is_file() else 0
    return size


def _tell(line: str, told: Told) -> None:
    """Pass on what skopeo says of a layer."""
    what, _, name = line.rpartition(" ")
    if what in ("Copying blob", "Copying config"):
        told(PullStep(what, name.removeprefix("sha256:")[:_LAYER_CHARACTERS]))


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


async def _run(
    argv: list[str],
    reference: ImageReference,
    *,
    on_line: Callable[[str], None] = lambda _: None,
) -> bytes:
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
            _read(child.stdout, _MANIFEST_BYTES_MAX, on_line),
            _read(child.stderr, _STDERR_BYTES_MAX),
        )
        code = await child.wait()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if code != 0:
        raise explain(reference, complaint.decode("utf-8", "replace"))
    return output


async def _read(
    stream: asyncio.StreamReader, bytes_max: int, on_line: Callable[[str], None] = lambda _: None
) -> bytes:
    """Read to the end, keeping the first bytes, telling of whole lines as they come."""
    kept = bytearray()
    told_upto = 0
    while chunk := await stream.read(1 << 16):
        kept += chunk[: max(0, bytes_max - len(kept))]
        while (end := kept.find(b"\n", told_upto)) >= 0:
            on_line(kept[told_upto:end].decode("utf-8", "replace"))
            told_upto = end + 1
    return bytes(kept)


_SAID: tuple[tuple[tuple[str, ...], type[FaasError], str, str], ...] = (
    (
        ("manifest unknown", "name unknown", "not found", "repository does not exist"),
        ImageNotFoundError,
        "the registry has no image {name}",
        "check the name and tag; private images need docker login, or registry_auth",
    ),
    (
        (
            "unauthorized",
            "authentication required",
            "no basic auth",
            "denied",
            "invalid username/password",
        ),
        PermissionDeniedError,
        "the registry does not give {name} to these credentials",
        "docker login REGISTRY, or pass registry_auth with the request",
    ),
    (
        ("no space left",),
        UnavailableError,
        "there is no room on disk for {name}",
        "df -h, then faas images remove NAME",
    ),
)
"""What skopeo, and the Docker Engine, say by parts of the message, and what it means. The first
that fits."""


def explain(reference: ImageReference, complaint: str, *, by: str = "skopeo") -> FaasError:
    """Say what a failed pull means, by what was said of it."""
    said = complaint.lower()
    for parts, kind, message, hint in _SAID:
        if any(part in said for part in parts):
            return kind(message.format(name=reference.familiar), hint=hint)
    last = complaint.strip().splitlines()[-1:] or [f"{by} said nothing"]
    return UnavailableError(
        f"{reference.familiar} cannot be pulled from {reference.registry}",
        hint="check the network, or import a file: faas images import NAME FILE",
        details={by: last[0][-500:]},
    )
