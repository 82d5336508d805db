"""Content-addressed bytes: names are hashes, checked on the way in and out."""

from faas.blobs.digest import Digest, digest_of
from faas.blobs.protocol import BlobStat, BlobStore
from faas.blobs.urls import open_store

__all__ = ["BlobStat", "BlobStore", "Digest", "digest_of", "open_store"]
