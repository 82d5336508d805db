"""Gives the Engine the trees of our image store, each once, named by its digest.

What runs is therefore exactly what was imported or pulled here, whatever the Engine's own images of
the same name say. The Engine gets one layer in the form `docker save` writes, made on disk first
because the digest of a layer stands before its bytes.
"""

import asyncio
import hashlib
import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from faas.docker.container import LABEL_DATA
from faas.errors import ImageNotFoundError, UnsupportedError
from faas.sandbox.protocols import RootFilesystem

if TYPE_CHECKING:
    from faas.docker.engine import Engine

REPOSITORY = "faas-image"


class EngineImages:
    """Which trees the Engine has; concurrent requests for one tree are one load."""

    def __init__(self, engine: "Engine", *, tag: str, scratch: Path, architecture: str) -> None:
        self._engine = engine
        self._tag = tag
        self._scratch = scratch
        self._architecture = architecture
        self._ready: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, root: RootFilesystem) -> str:
        """Return the Engine's name for a tree, giving it to the Engine when it lacks it.

        Raises:
            UnsupportedError: the image is `host`.
            ImageNotFoundError: the tree is gone.
        """
        if root.keeper is not None:
            return await self._kept(root)
        if root.path is None:
            raise UnsupportedError(
                "the docker runtime needs an image; `host` is only for the embedded runtime",
                hint="faas images pull alpine:latest, or import one, and name it",
            )
        name = f"{REPOSITORY}:{root.digest.removeprefix('sha256:')}"
        if name in self._ready:
            return name
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._ready:
                if not await self._engine.has_image(name):
                    await self._load(name, root.path)
                self._ready.add(name)
        self._locks.pop(name, None)
        return name

    async def _kept(self, root: RootFilesystem) -> str:
        """An image of the Engine's own runs by its id; it may be removed behind our back."""
        if root.digest not in self._ready:
            if not await self._engine.has_image(root.digest):
                raise ImageNotFoundError(
                    "the image was removed from the Docker Engine",
                    hint="run it again with pull_policy missing or always",
                    details={"digest": root.digest},
                )
            self._ready.add(root.digest)
        return root.digest

    def forget(self, name: str) -> None:
        """Look again next time: the Engine says it does not have it any more."""
        self._ready.discard(name)

    async def _load(self, name: str, tree: Path) -> None:
        if not await asyncio.to_thread(tree.is_dir):
            raise ImageNotFoundError("the image's tree is gone; import it again")
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="load-") as directory:
            archive = Path(directory) / "image.tar"
            await asyncio.to_thread(self._write, archive, name, tree)
            await self._engine.load_image(archive)

    def _write(self, archive: Path, name: str, tree: Path) -> None:
        layer = archive.with_name("layer.tar")
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as packed:
            packed.add(tree, arcname=".")
        with layer.open("rb") as file:
            diff_id = hashlib.file_digest(file, "sha256").hexdigest()
        config = msgspec.json.encode(
            {
                "architecture": self._architecture,
                "os": "linux",
                "config": {"Labels": {LABEL_DATA: self._tag}},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            }
        )
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as packed:
            _add(packed, config_name, config)
            _add(packed, "manifest.json", msgspec.json.encode(manifest))
            packed.add(layer, arcname="layer.tar")
        layer.unlink()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
