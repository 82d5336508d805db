"""A sandbox on what another wrote: the same files, at once, and nothing shared by writing."""

import asyncio
from pathlib import Path

import pytest
from tests.plugins.embedded import HOST, Embedded

from faas.errors import FaasError, TooLargeError
from faas.ids import new_sandbox_id
from faas.model import Limits
from faas.sandbox.layers import LayerStack
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

pytestmark = pytest.mark.needs_root


async def on(embedded: Embedded, *layers, root: RootFilesystem = HOST):
    spec = SandboxSpec(new_sandbox_id(), root, Limits(), layers=LayerStack("snap-x", layers))
    return await embedded.runtime.create(spec)


@pytest.fixture
async def parent(embedded: Embedded):
    sandbox = await embedded.sandbox()
    ran = await embedded.sh(sandbox, "echo one > /workspace/a; mkdir /new; echo deep > /new/b")
    assert ran.code == 0, ran
    return sandbox


async def test_a_child_has_its_parents_files_and_the_parent_is_gone(embedded, parent):
    layer = await parent.end_as_layer()
    assert not parent.is_alive
    assert layer.size_bytes > 0
    child = await on(embedded, layer)
    ran = await embedded.sh(child, "cat /workspace/a /new/b; echo two > /workspace/a; rm -r /new")
    assert ran.text.split() == ["one", "deep"]
    assert child.base == "snap-x"
    other = await on(embedded, layer)
    assert (await embedded.sh(other, "cat /workspace/a /new/b")).text.split() == ["one", "deep"]


async def test_children_of_children_stand_on_all(embedded, parent):
    below = await parent.end_as_layer()
    child = await on(embedded, below)
    await embedded.sh(child, "rm -r /new; mkdir /new; echo c > /new/c; echo 2 >> /workspace/a")
    grandchild = await on(embedded, await child.end_as_layer(), below)
    ran = await embedded.sh(grandchild, "ls /new; cat /workspace/a")
    assert ran.text.split() == ["c", "one", "2"]


async def test_a_look_sees_what_runs_on(embedded, parent):
    async with parent.look() as written:
        assert Path(f"/proc/self/fd/{written.top}/workspace/a").read_text() == "one\n"
        assert written.base is None
    assert (await embedded.sh(parent, "cat /workspace/a")).text == "one\n"


async def test_a_layer_made_by_the_host_is_the_childs_own(embedded):
    def fill(top: Path) -> None:
        (top / "workspace").mkdir(mode=0o777)
        (top / "workspace" / "given").write_text("hello")

    layer = await embedded.runtime.make_layer(fill, size_bytes=1 << 20)
    child = await on(embedded, layer)
    ran = await embedded.sh(child, "cat /workspace/given; echo x >> /workspace/given")
    assert (ran.code, ran.text) == (0, "hello")


async def test_what_does_not_fit_is_refused_and_leaves_nothing(embedded):
    def fill(top: Path) -> None:
        (top / "big").write_bytes(bytes(1 << 20))

    with pytest.raises(TooLargeError):
        await embedded.runtime.make_layer(fill, size_bytes=1 << 16)


async def test_dropping_and_a_dead_launcher_are_told(embedded, parent):
    layer = await parent.end_as_layer()
    child = await on(embedded, layer)
    assert embedded.runtime.is_stood_on(layer)
    await embedded.runtime.drop_layer(layer)
    assert not embedded.runtime.has_layer(layer)
    with pytest.raises(FaasError):
        await on(embedded, layer)
    assert (await embedded.sh(child, "cat /workspace/a")).text == "one\n"
    await child.destroy("done")
    assert not embedded.runtime.is_stood_on(layer)


async def test_many_children_at_once(embedded, parent):
    layer = await parent.end_as_layer()
    children = await asyncio.gather(*(on(embedded, layer) for _ in range(20)))
    said = await asyncio.gather(
        *(
            embedded.sh(one, f"echo {i} >> /workspace/a; tail -1 /workspace/a")
            for i, one in enumerate(children)
        )
    )
    assert [one.text.strip() for one in said] == [str(i) for i in range(20)]
