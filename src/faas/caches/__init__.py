"""Dependency caches: what pip, npm, cargo and go fetched in one run, for a tenant's next ones."""

from faas.caches.kinds import KINDS, CacheKind, CacheName
from faas.caches.layers import Sifted
from faas.caches.store import CacheBounds, CacheStore

__all__ = ["KINDS", "CacheBounds", "CacheKind", "CacheName", "CacheStore", "Sifted"]
