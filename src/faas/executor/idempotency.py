"""A caller's key for "this is the same request again".

A key belongs to a tenant and to the execution that was begun with it, in the same commit. The same
key with the same digest finds that execution, under way or ended, also after a restart; with
another digest it is refused. A key goes when its record is trimmed by retention, or when the
execution failed before its command can have started: then a retry runs.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The caller's key, and a digest of the request in its canonical form."""

    key: str
    request_digest: str
