"""Content-addressed bytes: names are hashes, checked on the way in and out."""

from faas.blobs.digest import Digest, digest_of
from faas.blobs.protocol import BlobStat, BlobStore
from faas.blobs.refs import RefStore
from faas.blobs.tiered import TieredBlobStore
from faas.blobs.urls import open_refs, open_shared, open_store

__all__ = [
    "BlobStat",
    "BlobStore",
    "Digest",
    "RefStore",
    "TieredBlobStore",
    "digest_of",
    "open_refs",
    "open_shared",
    "open_store",
]
