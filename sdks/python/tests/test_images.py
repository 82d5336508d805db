"""The calls about images, over the fake gateway: what is sent, told, returned and refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from faas_sdk import (
    ClientConfig,
    FaaSClient,
    GatewayUnreachableError,
    ImageNotFoundError,
    InvalidArgumentError,
    InvalidImageError,
    PermissionDeniedError,
    QueueFullError,
    Runtime,
    SyncFaaSClient,
)
from faas_sdk.testing import FakeGateway


def tar(**files: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as packed:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            packed.addfile(info, io.BytesIO(text.encode()))
    return sink.getvalue()


async def test_an_imported_image_is_listed_until_it_is_removed(client: FaaSClient) -> None:
    made = await client.import_image("app:1", tar(f="x"))
    assert made["reference"] == "app:1"
    assert {one["reference"] for one in await client.list_images()} == {"host", "app:1"}
    await client.remove_image("app:1", runtime="embedded")
    assert [one["reference"] for one in await client.list_images()] == ["host"]
    with pytest.raises(ImageNotFoundError):
        await client.remove_image("app:1")


async def test_a_directory_is_built_and_what_the_build_says_is_told(
    client: FaaSClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "Build").write_text("FROM scratch\nCOPY f /f\n")
    (tmp_path / "f").write_text("x")
    words: list[str] = []
    made = await client.build_image(
        "app:2", tmp_path, dockerfile="Build", build_args={"A": "b"}, network="none",
        no_cache=True, on_output=words.append,
    )  # fmt: skip
    assert words == ["Step 1/2 : FROM scratch\n", "Step 2/2 : COPY f /f\n"]
    assert (made["reference"], made["runtime"]) == ("app:2", "docker")
    found = {one["reference"]: one["digest"] for one in await client.list_images()}
    assert found["app:2"] == made["digest"]
    assert gateway.requests[0][:2] == ("POST", "/api/v1/images/build")


async def test_a_build_without_its_dockerfile_is_refused(client: FaaSClient) -> None:
    with pytest.raises(InvalidImageError, match="Dockerfile"):
        await client.build_image("app:1", tar(f="x"))


async def test_a_dockerignore_is_never_passed_over_in_silence(
    client: FaaSClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("secret\n")
    with pytest.raises(ValueError, match="dockerignore"):
        await client.build_image("app:1", tmp_path)
    with pytest.raises(ValueError, match="owners"):
        await client.import_image("app:1", tmp_path)
    assert gateway.requests == []


async def test_a_pull_tells_its_progress_and_is_repeated_when_it_breaks(
    client: FaaSClient, gateway: FakeGateway
) -> None:
    gateway.refuse_connection().fail_next(QueueFullError).lose_answer()
    steps: list[object] = []
    ready = await client.pull_image(
        "app:1", runtime=Runtime.DOCKER, pull_policy="always", on_progress=steps.append
    )
    assert (ready["reference"], ready["runtime"]) == ("app:1", "docker")
    assert steps
    assert gateway.requests[-1][2] == {
        "image": "app:1", "runtime": "docker", "pull_policy": "always"
    }  # fmt: skip
    assert len(gateway.requests) == 4


async def test_a_build_is_not_repeated(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.lose_answer()
    with pytest.raises(GatewayUnreachableError):
        await client.build_image("app:1", tar(Dockerfile="FROM scratch\n"))
    assert len(gateway.requests) == 1


async def test_refusals_are_the_gateways(client: FaaSClient, gateway: FakeGateway) -> None:
    gateway.fail_next(PermissionDeniedError)
    with pytest.raises(PermissionDeniedError):
        await client.pull_image("app:1")
    with pytest.raises(ImageNotFoundError):
        await client.pull_image("app:1", pull_policy="never")
    with pytest.raises(InvalidImageError):
        await client.import_image("app:1", b"no tar")
    for wrong in (client.import_image("", tar(f="x")), client.remove_image("a", runtime="auto")):
        with pytest.raises(InvalidArgumentError):
            await wrong


def test_the_sync_twin_does_the_same(sync_client: SyncFaaSClient, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar(f="x"))
    sync_client.import_image("app:1", archive)
    sync_client.build_image("app:2", tar(Dockerfile="FROM app:1\n"))
    sync_client.pull_image("app:3")
    found = {one["reference"] for one in sync_client.list_images()}
    assert found == {"host", "app:1", "app:2", "app:3"}
    for name in sorted(found - {"host"}):
        sync_client.remove_image(name)
    assert len(sync_client.list_images()) == 1


async def test_a_stream_that_ends_without_an_image_is_no_success() -> None:
    gateway = FakeGateway()
    gateway.lose_answer(times=20)
    impatient = ClientConfig(retry_delay_seconds=0.0, max_retries=0)
    async with gateway.client(impatient) as client:
        with pytest.raises(GatewayUnreachableError):
            await client.pull_image("app:1")
