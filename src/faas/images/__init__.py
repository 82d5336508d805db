"""Images: names people type, and the directory trees they stand for, stored by digest."""

from faas.images.closed import ClosedImages
from faas.images.in_use import TreesInUse
from faas.images.layers import UnpackLimits
from faas.images.order import ImageOrder, ListedImage, PullRules
from faas.images.provider import ImageProvider
from faas.images.pull import ImagePuller
from faas.images.records import ImageRecord
from faas.images.reference import ImageReference
from faas.images.store import ImageStore
from faas.sandbox.image_keeper import RegistryLogin

__all__ = [
    "ClosedImages",
    "ImageOrder",
    "ImageProvider",
    "ImagePuller",
    "ImageRecord",
    "ImageReference",
    "ImageStore",
    "ListedImage",
    "PullRules",
    "RegistryLogin",
    "TreesInUse",
    "UnpackLimits",
]
