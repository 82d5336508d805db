"""Instances by the SDK, both twins, against the real gateway over a fake machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.fake_gateway import FakeGateway, fake_gateway

from faas_sdk import FaaSClient, SyncFaaSClient


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    with fake_gateway(tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


async def test_a_life_of_an_instance(gateway: FakeGateway) -> None:
    async with FaaSClient(gateway.url) as faas:
        made = await faas.create_instance("host", name="dev", memory_mb=64, idle_seconds=600)
        instance = made["id"]
        assert [x["id"] for x in await faas.list_instances()] == [instance]
        assert (await faas.exec_instance(instance, "echo hi")).stdout == "hi\n"
        data = bytes(range(256)) * 5000
        await faas.write_file(instance, "/workspace/f", data)
        assert await faas.read_file(instance, "/workspace/f") == data
        await faas.pause_instance(instance)
        assert (await faas.get_instance(instance))["status"] == "paused"
        await faas.resume_instance(instance)
        await faas.stop_instance(instance)
        assert (await faas.start_instance(instance))["status"] == "running"
        assert [x["name"] for x in await faas.list_files(instance, "/workspace")] == ["f"]
        await faas.remove_file(instance, "/workspace/f")
        assert await faas.list_files(instance, "/workspace") == []
        await faas.delete_instance(instance)
        assert await faas.list_instances() == []


def test_a_life_of_an_instance_without_async(gateway: FakeGateway, tmp_path: Path) -> None:
    with SyncFaaSClient(gateway.url) as faas:
        instance = faas.create_instance()["id"]
        faas.write_file(instance, "/workspace/f", "text")
        faas.stop_instance(instance)
        faas.start_instance(instance)
        assert faas.read_file(instance, "/workspace/f") == b"text"
        faas.delete_instance(instance)
