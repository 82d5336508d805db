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


async def test_ports_leases_and_limits(gateway: FakeGateway) -> None:
    async with FaaSClient(gateway.url) as faas:
        instance = (await faas.create_instance(memory_mb=64, lease_seconds=60))["id"]
        exposed = await faas.expose_port(instance, 8000, token_seconds=60)
        assert exposed["open_url"].endswith(exposed["token"])
        assert [one["port"] for one in await faas.list_ports(instance)] == [8000]
        await faas.close_port(instance, 8000)
        assert await faas.list_ports(instance) == []
        assert (await faas.resize_instance(instance, memory_mb=96))["memory_mb"] == 96
        assert (await faas.renew_lease(instance, None))["lease_until"] is None
        await faas.delete_instance(instance)


async def test_files_are_watched_moved_packed_and_looked_at(gateway: FakeGateway) -> None:
    async with FaaSClient(gateway.url) as faas:
        instance = (await faas.create_instance())["id"]
        seen = []
        async for event in faas.watch_files(instance, "/workspace"):
            seen.append(event)
            if event["event"] == "ready":
                await faas.write_file(instance, "/workspace/a", b"1")
            elif event["path"] == "/workspace/a" and event["event"] == "created":
                await faas.move_file(instance, "/workspace/a", "/workspace/b")
            elif event["path"] == "/workspace/b":
                await faas.delete_instance(instance)
        told = {(e["event"], e.get("path")) for e in seen}
        assert {("created", "/workspace/a"), ("created", "/workspace/b")} <= told
        one = (await faas.create_instance())["id"]
        await faas.make_directory(one, "/workspace/d")
        await faas.write_file(one, "/workspace/d/f", b"12")
        assert (await faas.stat_file(one, "/workspace/d/f"))["size_bytes"] == 2
        tar = await faas.download_archive(one, "/workspace/d")
        await faas.upload_archive(one, "/workspace/e", tar)
        assert await faas.read_file(one, "/workspace/e/f") == b"12"
        await faas.delete_instance(one)


def test_many_instances_are_listed_whole(gateway: FakeGateway) -> None:
    with SyncFaaSClient(gateway.url) as faas:
        made = sorted((faas.create_instance()["id"] for _ in range(3)), reverse=True)
        assert [one["id"] for one in faas.list_instances()] == made
        exposed = faas.expose_port(made[0], 80)
        assert exposed["port"] == 80
        for instance in made:
            faas.delete_instance(instance)
