"""Images that were pulled with one caller's credentials, and who may run them.

A private image must not become everybody's because one tenant showed a password for it: it is open
to the tenants that pulled it themselves. A pull is noted before it begins, by name, so that one
that died half-way leaves nothing open either. What the gateway's own credentials, or none, can pull
is open to all.
"""

from pathlib import Path

import msgspec

from faas.ids import TenantId
from faas.images.records import read_record, write_record

_NAMES_MAX = 10_000


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    digests: dict[str, tuple[str, ...]] = {}
    names: dict[str, tuple[str, ...]] = {}


class ClosedImages:
    """Who may run what, in one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = read_record(path, _Record) or _Record()

    def is_open(self, tenant: TenantId, *, digest: str, name: str = "") -> bool:
        """Whether a tenant may run an image under a name."""
        record = self._record
        if not record.digests and not record.names:
            return True
        return all(
            found is None or tenant in found
            for found in (record.digests.get(digest), record.names.get(name))
        )

    def begin(self, name: str, tenant: TenantId) -> None:
        """Note that a tenant's credentials are about to fetch what has this name."""
        names = self._record.names
        if tenant not in names.get(name, ()) and len(names) < _NAMES_MAX:
            self._write(self._record.digests, {**names, name: (*names.get(name, ()), tenant)})

    def end(self, name: str, tenant: TenantId, *, digest: str, was_here: bool) -> None:
        """Note that they fetched this; what was here for all before stays so."""
        digests = dict(self._record.digests)
        if digest in digests or not was_here:
            digests[digest] = tuple(sorted({*digests.get(digest, ()), tenant}))
        self._write(digests, _without(self._record.names, name))

    def fail(self, name: str) -> None:
        """Note that nothing came of it."""
        self._write(self._record.digests, _without(self._record.names, name))

    def open(self, name: str, digest: str) -> None:
        """Note that everybody may run it."""
        if digest in self._record.digests or name in self._record.names:
            self._write(_without(self._record.digests, digest), _without(self._record.names, name))

    def _write(
        self, digests: dict[str, tuple[str, ...]], names: dict[str, tuple[str, ...]]
    ) -> None:
        record = _Record(digests=digests, names=names)
        if record != self._record:
            write_record(self._path, record)
            self._record = record


def _without(known: dict[str, tuple[str, ...]], key: str) -> dict[str, tuple[str, ...]]:
    return {name: tenants for name, tenants in known.items() if name != key}
