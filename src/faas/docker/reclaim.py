"""Takes away what a dead gateway left on the Engine: by our label and its owner, never by a name.

A thing is ours when it carries the tag of this data directory, and left over when it also says
whose it was (`faas.sandbox`, `faas.pause`) and nobody keeps that one. A volume or network that has
our tag and no owner is kept: it was made to stay. What carries no tag of ours is not looked at.
"""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from faas.docker.container import LABEL_DATA, LABEL_PAUSE, LABEL_SANDBOX
from faas.docker.settings import DockerSettings
from faas.docker.work_dir import WorkDir
from faas.sandbox.protocols import ReclaimReport

if TYPE_CHECKING:
    from faas.docker.engine import Engine


async def reclaim(
    engine: "Engine", settings: DockerSettings, *, kept: AbstractSet[str]
) -> ReclaimReport:
    """Remove containers, then the networks and volumes they held, then directories."""
    ours = f"{LABEL_DATA}={settings.tag}"
    sandboxes = others = 0
    for container in await engine.labelled(ours):
        if _is_left(container, kept) and await engine.remove(str(container["Id"])):
            is_sandbox = LABEL_SANDBOX in _labels(container)
            sandboxes, others = sandboxes + is_sandbox, others + (not is_sandbox)
    for network in await engine.labelled_networks(ours):
        if _is_left(network, kept):
            await engine.remove_network(str(network["Id"]))
    for volume in await engine.labelled_volumes(ours):
        if _is_left(volume, kept):
            await engine.remove_volume(str(volume["Name"]))
    files = 0
    for path in settings.work_dir.iterdir():
        if path.name not in kept:
            WorkDir(path).remove()
            files += 1
    return ReclaimReport(sandboxes=sandboxes, processes=sandboxes + others, files=files)


def _is_left(thing: dict[str, Any], kept: AbstractSet[str]) -> bool:
    labels = _labels(thing)
    owner = labels.get(LABEL_SANDBOX) or labels.get(LABEL_PAUSE)
    return owner is not None and owner not in kept


def _labels(thing: dict[str, Any]) -> dict[str, str]:
    return thing.get("Labels") or {}
