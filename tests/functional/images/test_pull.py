"""Pulls from a real registry on loopback, with and without a password."""

import asyncio
import socket
from pathlib import Path

import pytest
from tests.plugins.registry import (
    PASSWORD,
    Registry,
    free_port,
    needs_registry,
    private_registry,
    registry,
)
from tests.unit.images.archives import directory, file, listing, oci_layout, tar

from faas.errors import (
    DeadlineExceededError,
    ImageNotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from faas.images import ImagePuller, ImageStore, RegistryLogin

__all__ = ["private_registry", "registry"]
pytestmark = needs_registry


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    layers = [tar([directory("bin"), file("bin/app", b"one"), file("old")]),
              tar([file(".wh.old", b"")])]  # fmt: skip
    return oci_layout(tmp_path / "layout", layers, config={"Env": ["A=1"]})


async def push(registry: Registry, layout: Path, repository: str, *options: str) -> None:
    await asyncio.to_thread(registry.push, layout, repository, *options)


async def test_an_image_is_pulled_with_its_layers_and_configuration(
    registry: Registry, store: ImageStore, layout: Path
) -> None:
    await push(registry, layout, "team/app:1")
    record = await ImagePuller(store).pull(registry.name("team/app:1"))
    root = store.resolve(registry.name("team/app:1"))
    assert root.path is not None
    assert listing(root.path) == {"bin": None, "bin/app": b"one"}
    assert root.env == (("A", "1"),)
    assert record.source == "registry"
    assert not any(store._tmp.iterdir())


async def test_a_digest_pins_what_is_pulled_when_the_tag_has_moved(
    registry: Registry, store: ImageStore, layout: Path, tmp_path: Path
) -> None:
    await push(registry, layout, "app:1")
    puller = ImagePuller(store)
    first = await puller.pull(registry.name("app:1"))
    moved = oci_layout(tmp_path / "moved", [tar([file("two")])])
    await push(registry, moved, "app:1")
    pinned = await puller.pull(registry.name(f"app:1@{first.manifest_digest}"))
    assert pinned.digest == first.digest
    assert (await puller.pull(registry.name("app:1"))).digest != first.digest


async def test_many_pulls_of_one_image_at_once_are_one_pull(
    registry: Registry, store: ImageStore, layout: Path
) -> None:
    await push(registry, layout, "app:1")
    imports: list[str] = []
    original = store.import_

    async def counted(reference: str, *args: object, **options: object):
        imports.append(reference)
        return await original(reference, *args, **options)  # type: ignore[arg-type]

    store.import_ = counted  # type: ignore[method-assign]
    puller = ImagePuller(store)
    records = await asyncio.gather(*(puller.pull(registry.name("app:1")) for _ in range(10)))
    assert len({record.digest for record in records}) == 1
    assert len(imports) == 1


async def test_one_caller_that_leaves_does_not_end_the_pull_of_another(
    registry: Registry, store: ImageStore, layout: Path
) -> None:
    await push(registry, layout, "app:1")
    puller = ImagePuller(store)
    leaving = asyncio.create_task(puller.pull(registry.name("app:1")))
    staying = asyncio.create_task(puller.pull(registry.name("app:1")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).reference == registry.name("app:1")
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_pull_nobody_waits_for_any_more_leaves_nothing(
    registry: Registry, store: ImageStore, layout: Path
) -> None:
    await push(registry, layout, "app:1")
    task = asyncio.create_task(ImagePuller(store).pull(registry.name("app:1")))
    while not any(store._tmp.iterdir()):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(store._tmp.iterdir())
    assert store.list()[1:] == []


@pytest.mark.parametrize("name", ["app:none", "nobody/such:1", "app@sha256:" + "0" * 64])
async def test_what_the_registry_does_not_have_is_not_found(
    registry: Registry, store: ImageStore, layout: Path, name: str
) -> None:
    await push(registry, layout, "app:1")
    with pytest.raises(ImageNotFoundError) as refused:
        await ImagePuller(store).pull(registry.name(name))
    assert refused.value.hint
    assert not any(store._tmp.iterdir())


async def test_a_registry_that_is_not_there_is_unavailable(store: ImageStore) -> None:
    with pytest.raises(UnavailableError) as refused:
        await ImagePuller(store).pull(f"127.0.0.1:{free_port()}/app:1")
    assert refused.value.hint


async def test_a_registry_that_does_not_answer_ends_at_the_time_limit(store: ImageStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        puller = ImagePuller(store, timeout_seconds=0.5)
        with pytest.raises(DeadlineExceededError):
            await puller.pull(f"127.0.0.1:{silent.getsockname()[1]}/app:1")
    assert not any(store._tmp.iterdir())


async def test_without_skopeo_the_way_to_get_it_is_told(store: ImageStore) -> None:
    with pytest.raises(UnsupportedError) as refused:
        await ImagePuller(store, program="no-such-program").pull("alpine")
    assert "skopeo" in (refused.value.hint or "")


async def test_a_private_image_needs_the_right_password_and_never_shows_it(
    private_registry: Registry, store: ImageStore, layout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await push(private_registry, layout, "app:1", "--dest-creds", f"faas:{PASSWORD}")
    puller = ImagePuller(store)
    name = private_registry.name("app:1")
    for login in (None, RegistryLogin("faas", PASSWORD + "x")):
        with pytest.raises(PermissionDeniedError) as refused:
            await puller.pull(name, login=login)
        assert PASSWORD not in f"{refused.value!r} {refused.value.hint} {refused.value.details}"
    login = RegistryLogin("faas", PASSWORD)
    assert PASSWORD not in repr(login)
    assert (await puller.pull(name, login=login)).source == "registry"
    assert not any(store._tmp.iterdir())
    assert PASSWORD not in "".join(capfd.readouterr())
