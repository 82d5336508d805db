"""Small archives and layouts for the image tests, made by the standard library's own tar writer."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from faas.images.layers import TreeWriter, UnpackLimits
from faas.images.tar import TarStream

Member = tuple[str, bytes | str | None, dict[str, Any]]


def file(path: str, content: bytes = b"x", **fields: Any) -> Member:
    return (path, content, fields)


def directory(path: str, **fields: Any) -> Member:
    return (path, None, {"type": tarfile.DIRTYPE, "mode": 0o755, **fields})


def symlink(path: str, target: str) -> Member:
    return (path, None, {"type": tarfile.SYMTYPE, "linkname": target})


def hard_link(path: str, target: str) -> Member:
    return (path, None, {"type": tarfile.LNKTYPE, "linkname": target})


def special(path: str, kind: bytes) -> Member:
    return (path, None, {"type": kind, "devmajor": 1, "devminor": 3})


def tar(members: Iterable[Member], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for path, content, fields in members:
            info = tarfile.TarInfo(path)
            for key, value in fields.items():
                setattr(info, key, value)
            data = content.encode() if isinstance(content, str) else content
            if data is not None:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def unpack(
    root: Path,
    *layers: bytes,
    limits: UnpackLimits | None = None,
    check: Callable[[], None] = lambda: None,
) -> TreeWriter:
    root.mkdir(exist_ok=True)
    with TreeWriter(root, limits=limits, check=check) as writer:
        for layer in layers:
            stream = TarStream(io.BytesIO(layer))
            writer.apply(stream, stream.read_data)
        writer.finish()
    return writer


def listing(root: Path) -> dict[str, bytes | str | None]:
    """Path → content of a file, target of a symlink, None for a directory."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = "-> " + str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def oci_layout(
    where: Path, layers: list[bytes], *, config: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write an OCI layout with gzip layers; `changes` replace parts to break it."""
    blobs = where / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        (blobs / _sha(data)).write_bytes(data)
        return {"digest": f"sha256:{_sha(data)}", "size": len(data)}

    packed = [put(changes.get("pack", gzip.compress)(layer)) for layer in layers]
    diff_ids = changes.get("diff_ids", [f"sha256:{_sha(layer)}" for layer in layers])
    blob = {"config": config or {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "config": put(json.dumps(blob).encode()), "layers": packed}
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
    entry |= put(json.dumps(manifest).encode())
    (where / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (where / "index.json").write_text(json.dumps({"manifests": changes.get("index", [entry])}))
    return where


def docker_save(layers: list[bytes], *, config: dict[str, Any] | None = None) -> bytes:
    """What `docker save` writes, with a layer that stands twice linked as old versions do."""
    diff_ids = [f"sha256:{_sha(layer)}" for layer in layers]
    blob = json.dumps({"config": config or {}, "rootfs": {"diff_ids": diff_ids}}).encode()
    members: list[Member] = [file("config.json", blob)]
    names: list[str] = []
    for number, layer in enumerate(layers):
        names.append(f"{number}/layer.tar")
        if layer in layers[:number]:
            members.append(symlink(names[-1], f"../{layers.index(layer)}/layer.tar"))
        else:
            members.append(file(names[-1], layer))
    described = [{"Config": "config.json", "RepoTags": ["made:here"], "Layers": names}]
    members.append(file("manifest.json", json.dumps(described).encode()))
    return tar(members)
