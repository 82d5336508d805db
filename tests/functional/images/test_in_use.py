"""An image is not removed from under a living sandbox."""

from pathlib import Path

import pytest

from faas.errors import ConflictError, ImageNotFoundError
from faas.events import EventBus, SandboxAdopted, SandboxCreated, SandboxDestroyed
from faas.ids import new_sandbox_id
from faas.images import ImageStore, TreesInUse


@pytest.mark.parametrize("is_adopted", [False, True], ids=["created", "adopted"])
async def test_a_tree_is_held_while_a_sandbox_stands_on_it(
    tmp_path: Path, is_adopted: bool
) -> None:
    source = tmp_path / "tree"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "true").write_text("#!/bin/sh\n")
    store, bus = ImageStore(tmp_path / "images", {}), EventBus()
    TreesInUse(store).listen(bus)
    record = await store.import_("mine", source)
    sandbox = new_sandbox_id()
    facts = {"sandbox_id": sandbox, "runtime": "embedded", "image_digest": record.digest}
    bus.publish(SandboxAdopted(**facts) if is_adopted else SandboxCreated(**facts, duration_us=1))

    with pytest.raises(ConflictError):
        await ImageStore(tmp_path / "images", {}).remove("mine")
    bus.publish(SandboxDestroyed(sandbox_id=sandbox, runtime="embedded", reason="done"))
    await ImageStore(tmp_path / "images", {}).remove("mine")

    with pytest.raises(ImageNotFoundError):
        store.resolve("mine")
