"""Merges branches against their nearest common parent."""

from faas.errors import ConflictError, InvalidArgumentError
from faas.ids import SnapshotId
from faas.snapshots.catalog import Catalog
from faas.snapshots.changes import Merged, MergeStrategy, merge
from faas.snapshots.packs import Packed, PackNumbers, only_used
from faas.snapshots.reader import Reader
from faas.snapshots.records import SnapshotInfo, SnapshotRecord


async def merged(
    records: list[SnapshotRecord],
    *,
    strategy: MergeStrategy,
    name: str | None,
    catalog: Catalog,
    reader: Reader,
) -> tuple[SnapshotInfo, Packed, Merged]:
    """Merge the files of branches that are held; nothing is written.

    Raises:
        InvalidArgumentError: fewer than two, or of different images.
        ConflictError: they have no common parent.
    """
    if len({r.id for r in records}) < 2:  # noqa: PLR2004  a merge of one is a copy
        raise InvalidArgumentError("a merge needs at least two different branches")
    if len({r.image_digest for r in records}) != 1:
        raise InvalidArgumentError("branches of different images cannot be merged")
    base_id = await _common_parent(records, catalog)
    every = [await reader.manifest(r) for r in records]
    base = await reader.manifest_of(base_id)
    packs = PackNumbers()
    base_tree = packs.renumber(base, "files")
    trees = {
        str(record.id): packs.renumber(manifest, "files")
        for record, manifest in zip(records, every, strict=True)
    }
    result = merge(base_tree, trees, strategy)
    info = SnapshotInfo(
        tenant=records[0].tenant, image_digest=records[0].image_digest,
        image=records[0].image, runtimes=records[0].runtimes, config=every[0].config,
        name=name, parent=base_id,
    )  # fmt: skip
    packed = only_used({"files": tuple(result.tree.values())}, packs.names())
    return info, packed, result


async def _common_parent(records: list[SnapshotRecord], catalog: Catalog) -> SnapshotId | None:
    lines: list[list[SnapshotId]] = []
    for record in records:
        line, at = [record.id], record.parent
        while at is not None:
            line.append(at)
            at = (await catalog.find(at)).parent
        lines.append(line)
    for candidate in lines[0]:
        if all(candidate in line for line in lines[1:]):
            return candidate
    if all(record.parent is None for record in records):
        return None  # the image itself is what they share
    raise ConflictError(
        "these branches have no common parent", hint="merge only forks of one snapshot"
    )
