"""What a child has from its parent: image, environment, working directory, user; its own
environment wins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from faas.errors import InvalidArgumentError, NotFoundError
from faas.ids import SnapshotId
from faas.model import ExecutionSpec, Mode
from faas.sandbox.protocols import RootFilesystem

_Pairs = tuple[tuple[str, str], ...]
_read_env = msgspec.json.Decoder(_Pairs).decode

ResolveImage = Callable[[str], RootFilesystem]


@dataclass(frozen=True, slots=True)
class Parent:
    """What a child starts from."""

    id: SnapshotId
    image: str
    image_digest: str
    config: Mapping[str, str]


def reference_in(spec: ExecutionSpec) -> str | None:
    """Return how a spec names its parent; None: it starts from its image alone.

    Raises:
        InvalidArgumentError: what is said of the parent does not fit the mode.
    """
    if spec.branch_from is not None and spec.snapshot_id is not None:
        raise InvalidArgumentError("branch_from and snapshot_id both name a parent: give one")
    if spec.mode is Mode.BRANCHED and spec.branch_from is None and spec.snapshot_id is None:
        raise InvalidArgumentError(
            "branch_from required", hint="give the id of an execution, snapshot or instance"
        )
    reference = spec.branch_from or spec.snapshot_id
    if reference is not None and spec.mode in (Mode.CACHED, Mode.PERSISTENT):
        raise InvalidArgumentError(
            f"mode {spec.mode.value} starts from no parent",
            hint="use mode branched, checkpointed or ephemeral",
        )
    if spec.branch_from is not None and spec.mode is Mode.EPHEMERAL:
        raise InvalidArgumentError(
            "branch_from goes with mode branched or checkpointed", hint="set mode to branched"
        )
    return reference


def child_of(spec: ExecutionSpec, parent: Parent, resolve: ResolveImage) -> ExecutionSpec:
    """Fill in what it inherits.

    Raises:
        InvalidArgumentError: it asks for another image.
    """
    env = dict(_read_env(parent.config.get("env", "[]"))) | dict(spec.env)
    return replace(
        spec,
        image=_image_of(spec.image, parent, resolve),
        snapshot_id=parent.id,
        env=tuple(env.items()),
        working_dir=spec.working_dir or parent.config.get("working_dir"),
        user=spec.user or parent.config.get("user"),
    )


def _image_of(asked: str, record: Parent, resolve: ResolveImage) -> str:
    """The parent's image by a name that still means it."""
    if asked and resolve(asked).digest != record.image_digest:
        raise InvalidArgumentError(
            f"a child has its parent's image, {record.image}, not {asked}",
            hint="leave the image out",
        )
    for name in (asked, record.image):
        if name and _digest_of(name, resolve) == record.image_digest:
            return name
    return record.image_digest


def _digest_of(image: str, resolve: ResolveImage) -> str | None:
    try:
        return resolve(image).digest
    except NotFoundError:
        return None
