"""One snapshot as one file: `faas-snapshot` in a tar of its record, its manifest and its packs.

Everything in the file is checked before it is named here: packs and manifest by digest, the
manifest's paths by its decoder, every chunk by its hash when it is first read.
"""

import asyncio
import io
import tarfile
from pathlib import Path
from typing import IO

import msgspec

from faas.blobs.digest import digest_of
from faas.errors import InvalidArgumentError, ManifestError
from faas.ids import TenantId, new_snapshot_id
from faas.snapshots import manifest as manifests
from faas.snapshots.store import SnapshotRecord, SnapshotStore

_PACK_BYTES_MAX = 64 << 20


async def export_snapshot(store: SnapshotStore, reference: str, target: Path) -> None:
    """Write the snapshot to `target`, whole or not at all."""
    record = await store.get(reference)
    manifest = await store.blobs.get(record.manifest)
    packs = manifests.decode(manifest).packs
    staged = target.with_name(target.name + ".part")
    with tarfile.open(staged, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "faas-snapshot", b"1\n")
        _add(archive, "record.json", msgspec.json.encode(record))
        _add(archive, "manifest", manifest)
        for digest in packs:
            _add(archive, f"packs/{digest.removeprefix('sha256:')}", await store.blobs.get(digest))
    staged.rename(target)


async def import_snapshot(
    store: SnapshotStore, source: IO[bytes], *, tenant: TenantId
) -> SnapshotRecord:
    """Take in a file that `export_snapshot` wrote, under a new id.

    Raises:
        InvalidArgumentError: it is no such file, or something in it is damaged.
    """
    record: SnapshotRecord | None = None
    manifest = b""
    packs: set[str] = set()
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                data = await asyncio.to_thread(_content, archive, member)
                if member.name == "record.json":
                    record = msgspec.json.decode(data, type=SnapshotRecord)
                elif member.name == "manifest":
                    manifest = data
                elif member.name.startswith("packs/"):
                    packs.add(await store.blobs.put(data))
    except (tarfile.TarError, msgspec.MsgspecError) as cause:
        raise InvalidArgumentError("this is no exported snapshot") from cause
    if record is None or digest_of(manifest) != record.manifest:
        raise InvalidArgumentError("this is no exported snapshot, or it is damaged")
    try:
        missing = set(manifests.decode(manifest).packs) - packs
    except ManifestError as cause:
        raise InvalidArgumentError("the manifest in this file cannot be read") from cause
    if missing:
        raise InvalidArgumentError(f"this file lacks {len(missing)} of its packs")
    adopted = msgspec.structs.replace(record, id=new_snapshot_id(), tenant=tenant, source="")
    return await store.adopt(adopted, manifest)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or member.size > max(_PACK_BYTES_MAX, manifests.MANIFEST_BYTES_MAX):
        raise InvalidArgumentError(f"unexpected entry {member.name[:80]!r} in this file")
    return content.read()
