"""Images: names people type, and the directory trees they stand for, stored by digest."""

from faas.images.in_use import TreesInUse
from faas.images.layers import UnpackLimits
from faas.images.pull import ImagePuller, RegistryLogin
from faas.images.reference import ImageReference
from faas.images.store import ImageRecord, ImageStore

__all__ = [
    "ImagePuller",
    "ImageRecord",
    "ImageReference",
    "ImageStore",
    "RegistryLogin",
    "TreesInUse",
    "UnpackLimits",
]
