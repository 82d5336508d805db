"""Tell what an image to import is, and give its configuration and layers, lowest first.

Known: a directory tree, a tar of one, an OCI layout (directory or tar), what `docker save` writes
(tar or directory); any tar may be compressed. Blobs are checked against their digest before
anything of them is used.
"""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import msgspec

from faas.errors import DigestMismatchError, InvalidImageError, TooLargeError
from faas.images.compression import decompressed, is_compressed
from faas.images.config import (
    ConfigBlob,
    Descriptor,
    DockerManifest,
    ImageConfig,
    OciIndex,
    OciManifest,
)
from faas.images.layers import UnpackLimits
from faas.images.reference import is_digest
from faas.images.shelves import DirectoryShelf, Shelf, TarShelf
from faas.images.tar import ByteStream, Entry, TarStream
from faas.images.tree import DirectorySource

_JSON_BYTES_MAX = 4 << 20
"""Longest manifest or configuration read: what registries accept."""
_INDEX_DEPTH_MAX = 3
_CHUNK = 1 << 20
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerData:
    """An open layer: its entries, and the content of the entry given last."""

    entries: Iterable[Entry]
    read_data: Callable[[], Iterator[bytes]]


OpenLayer = Callable[[], AbstractContextManager[LayerData]]


class SourceKind(StrEnum):
    """What was imported."""

    DIRECTORY = "directory"
    TAR = "tar"
    OCI = "oci-layout"
    DOCKER = "docker-save"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image, to be unpacked while its source is open."""

    kind: SourceKind
    config: ImageConfig
    layers: tuple[OpenLayer, ...]
    manifest_digest: str | None = None


@contextmanager
def open_source(path: Path, *, scratch: Path, limits: UnpackLimits) -> Generator[ImageSource]:
    """Open what is at `path`; `scratch` takes the plain bytes of a compressed archive.

    Raises:
        InvalidImageError: it is nothing that can be imported.
        DigestMismatchError: a blob is not what its name says.
    """
    with ExitStack() as stack:
        if path.is_dir():
            shelf = DirectoryShelf(path)
        else:
            shelf = TarShelf(_plain_file(path, stack, scratch, limits))
        if shelf.has("oci-layout") and shelf.has("index.json"):
            source = _oci(shelf, limits)
        elif shelf.has("manifest.json") and _is_docker(shelf):
            source = _docker(shelf, limits)
        elif isinstance(shelf, TarShelf):
            source = ImageSource(SourceKind.TAR, ImageConfig(), (partial(_tar, shelf.file),))
        else:
            layer = partial(_directory, path)
            source = ImageSource(SourceKind.DIRECTORY, ImageConfig(), (layer,))
        if len(source.layers) > limits.layers_max:
            raise TooLargeError(f"the image has more than {limits.layers_max} layers")
        yield source


def _plain_file(path: Path, stack: ExitStack, scratch: Path, limits: UnpackLimits) -> BinaryIO:
    """Open an archive; a compressed one goes to `scratch` first, for it is read by position."""
    hint = "give a directory, a tar, an OCI layout or the output of docker save"
    if not path.is_file():
        raise InvalidImageError(f"{path.name!r} is neither a file nor a directory", hint=hint)
    try:
        file = stack.enter_context(path.open("rb"))
    except OSError as failure:
        raise InvalidImageError(
            f"{path.name!r} cannot be read: {failure.strerror}", hint=hint
        ) from failure
    if not is_compressed(file):
        return file
    unpacked = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  the stack closes it
    plain = cast("BinaryIO", stack.enter_context(unpacked))
    with decompressed(file) as stream:
        written = 0
        while chunk := stream.read(_CHUNK):
            written += plain.write(chunk)
            if written > limits.archive_bytes_max:
                raise TooLargeError(
                    f"the archive unpacks to more than {limits.archive_bytes_max} bytes"
                )
    plain.seek(0)
    return plain


@contextmanager
def _directory(path: Path) -> Generator[LayerData]:
    with closing(DirectorySource(path)) as tree:
        yield LayerData(tree, tree.read_data)


@contextmanager
def _tar(file: BinaryIO) -> Generator[LayerData]:
    file.seek(0)
    stream = TarStream(file)
    yield LayerData(stream, stream.read_data)


@contextmanager
def _blob(shelf: Shelf, name: str, *, diff_id: str, bytes_max: int) -> Generator[LayerData]:
    """Open a layer blob; read through, its plain bytes must have the digest `diff_id`."""
    with shelf.open(name) as raw, decompressed(raw) as plain:
        hashed = _Hashed(plain, bytes_max)
        stream = TarStream(hashed)
        yield LayerData(stream, stream.read_data)
        while hashed.read(_CHUNK):
            pass
        if hashed.digest != diff_id:
            raise DigestMismatchError(f"layer {name[-64:]} does not unpack to {diff_id}")


class _Hashed:
    """A stream that hashes what is read of it, and ends a bomb."""

    def __init__(self, source: ByteStream, bytes_max: int) -> None:
        self._source = source
        self._left = bytes_max
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self._left -= len(data)
        if self._left < 0:
            raise TooLargeError("a layer unpacks to more than any image may")
        return data


def _is_docker(shelf: Shelf) -> bool:
    try:
        return bool(_docker_manifests(shelf))
    except InvalidImageError:
        return False


def _docker_manifests(shelf: Shelf) -> tuple[DockerManifest, ...]:
    return _decode(_read_json(shelf, "manifest.json"), tuple[DockerManifest, ...])


def _docker(shelf: Shelf, limits: UnpackLimits) -> ImageSource:
    manifests = _docker_manifests(shelf)
    if len(manifests) != 1:
        names = ", ".join(tag for one in manifests for tag in one.repo_tags or ())
        raise InvalidImageError(
            f"the archive holds {len(manifests)} images: {names[:200]}",
            hint="save one image: docker save NAME -o image.tar",
        )
    config = _decode(_read_json(shelf, manifests[0].config), ConfigBlob)
    return ImageSource(
        SourceKind.DOCKER, config.run_config(), _layers(shelf, manifests[0].layers, config, limits)
    )


def _oci(shelf: Shelf, limits: UnpackLimits) -> ImageSource:
    index = _decode(_read_json(shelf, "index.json"), OciIndex)
    descriptor = _pick(shelf, index, depth=0)
    manifest = _decode(_read_verified(shelf, descriptor), OciManifest)
    config = _decode(_read_verified(shelf, manifest.config), ConfigBlob)
    for layer in manifest.layers:
        _verify(shelf, layer)
    layers = _layers(
        shelf, tuple(_blob_name(layer.digest) for layer in manifest.layers), config, limits
    )
    return ImageSource(SourceKind.OCI, config.run_config(), layers, descriptor.digest)


def _layers(
    shelf: Shelf, names: tuple[str, ...], config: ConfigBlob, limits: UnpackLimits
) -> tuple[OpenLayer, ...]:
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(names):
        raise InvalidImageError("the image's configuration and its layers do not fit together")
    pairs = zip(names, diff_ids, strict=True)
    return tuple(
        partial(_blob, shelf, name, diff_id=diff_id, bytes_max=limits.archive_bytes_max)
        for name, diff_id in pairs
    )


def _pick(shelf: Shelf, index: OciIndex, *, depth: int) -> Descriptor:
    """Choose the manifest for this machine, through nested indexes."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    fitting = [one for one in index.manifests if _fits(one, machine)]
    if len(fitting) != 1:
        raise InvalidImageError(
            f"the layout holds {len(fitting)} images for linux/{machine}",
            hint="give a layout with one image: skopeo copy SOURCE oci:DIRECTORY:TAG",
        )
    descriptor = fitting[0]
    if "index" not in descriptor.media_type and "manifest.list" not in descriptor.media_type:
        return descriptor
    if depth >= _INDEX_DEPTH_MAX:
        raise InvalidImageError("the layout's indexes are nested too deep")
    nested = _decode(_read_verified(shelf, descriptor), OciIndex)
    return _pick(shelf, nested, depth=depth + 1)


def _fits(descriptor: Descriptor, machine: str) -> bool:
    on = descriptor.platform
    return on is None or (on.get("os") == "linux" and on.get("architecture") == machine)


def _blob_name(digest: str) -> str:
    if not is_digest(digest):
        raise InvalidImageError(f"{digest[:80]!r} is not a digest that can be checked")
    return "blobs/" + digest.replace(":", "/")


def _read_json(shelf: Shelf, name: str) -> bytes:
    with shelf.open(name) as file:
        data = file.read(_JSON_BYTES_MAX + 1)
    if len(data) > _JSON_BYTES_MAX:
        raise InvalidImageError(f"{name[:80]!r} is longer than {_JSON_BYTES_MAX} bytes")
    return data


def _read_verified(shelf: Shelf, descriptor: Descriptor) -> bytes:
    data = _read_json(shelf, _blob_name(descriptor.digest))
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor.digest:
        raise DigestMismatchError(f"the blob {descriptor.digest} holds other bytes")
    return data


def _verify(shelf: Shelf, descriptor: Descriptor) -> None:
    with shelf.open(_blob_name(descriptor.digest)) as file:
        total = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    if f"sha256:{total.hexdigest()}" != descriptor.digest:
        raise DigestMismatchError(f"the blob {descriptor.digest} holds other bytes")


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as failure:
        raise InvalidImageError(f"the image's description is malformed: {failure}") from failure
