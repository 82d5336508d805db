"""Instances over HTTP: every route, every refusal."""

import asyncio
import io
import json
import tarfile
from typing import Any

import pytest

from faas.gateway import GatewaySettings
from faas.gateway.auth import ApiKey
from faas.ids import TenantId
from faas.tenancy import Principal, Scope, Tenant

UNKNOWN = "inst-01k9zjv3f8q5r2m7c4x6w0n1ab"


async def make(gateway: Any, **body: Any) -> dict[str, Any]:
    answer = await gateway.client.post("/api/v1/instances", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def run(gateway: Any, instance: str, **body: Any) -> Any:
    return await gateway.client.post(f"/api/v1/instances/{instance}/exec", json=body)


async def step(gateway: Any, instance: str, verb: str) -> Any:
    return await gateway.client.post(f"/api/v1/instances/{instance}/{verb}")


async def test_the_acceptance_case_of_the_original(gateway: Any) -> None:
    made = await make(gateway, image="alpine:latest", cpu_cores=1, memory_mb=512)
    at = f"/api/v1/instances/{made['id']}"
    assert (await gateway.client.get(at)).json() == made
    ran = await run(gateway, made["id"], command="echo Linux")
    assert (ran.status_code, ran.json()["exit_code"], ran.json()["stdout"]) == (200, 0, "Linux\n")
    stopped = await step(gateway, made["id"], "stop")
    assert (stopped.status_code, stopped.content) == (204, b"")
    assert (await gateway.client.get(at)).json()["status"] == "stopped"


async def test_the_operator_apis_case(gateway: Any) -> None:
    body = {"snapshot_id": None, "image": "alpine", "cpu_cores": 1, "memory_mb": 512}
    made = await make(gateway, **body, disk_gb=4, enable_ssh=False)
    assert (made["instance_id"], made["status"]) == (made["id"], "running")
    info = (await gateway.client.get(f"/api/v1/instances/{made['id']}/info")).json()
    assert info["resources"] == {"cpu_cores": 1.0, "memory_mb": 512, "disk_gb": 4.0}


async def test_the_list_is_bare_and_newest_first(gateway: Any) -> None:
    made = [(await make(gateway, name=name))["id"] for name in ("one", "two")]
    listed = (await gateway.client.get("/api/v1/instances")).json()
    assert [item["id"] for item in listed] == made[::-1]


async def test_a_name_stands_for_the_id(gateway: Any) -> None:
    made = await make(gateway, name="dev")
    assert (await gateway.client.get("/api/v1/instances/dev")).json()["id"] == made["id"]
    answer = await gateway.client.post("/api/v1/instances", json={"name": "dev"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


async def test_an_execution_in_mode_persistent_tells_its_instance(gateway: Any) -> None:
    first = (await gateway.execute(command="true", mode="persistent")).json()
    second = await gateway.execute(
        command="true", mode="persistent", instance_id=first["instance_id"]
    )
    assert second.json()["container_id"] == first["container_id"]


async def test_an_exec_that_is_not_waited_for_is_an_execution(gateway: Any) -> None:
    made = await make(gateway)
    stored = await run(gateway, made["id"], command="echo later", wait=False)
    assert stored.status_code == 202
    final = await gateway.client.get(stored.headers["location"], params={"wait_ms": 5000})
    assert final.json()["stdout"] == "later\n"


async def test_one_key_in_two_instances_is_a_conflict(gateway: Any) -> None:
    one, two = await make(gateway), await make(gateway)
    headers = {"Idempotency-Key": "k"}
    for instance, status in ((one, 200), (one, 200), (two, 409)):
        path = f"/api/v1/instances/{instance['id']}/exec"
        answer = await gateway.client.post(path, json={"command": "true"}, headers=headers)
        assert answer.status_code == status


async def test_pause_and_resume(gateway: Any) -> None:
    made = await make(gateway)
    assert (await step(gateway, made["id"], "pause")).json()["status"] == "paused"
    refused = await run(gateway, made["id"], command="true")
    assert (refused.status_code, refused.json()["hint"]) == (409, "resume it first")
    assert (await step(gateway, made["id"], "resume")).json()["status"] == "running"
    assert (await run(gateway, made["id"], command="true")).status_code == 200


async def test_a_deleted_instance_is_not_found(gateway: Any) -> None:
    made = await make(gateway)
    at = f"/api/v1/instances/{made['id']}"
    assert (await gateway.client.delete(at)).status_code == 204
    assert (await gateway.client.delete(at)).status_code == 404


@pytest.mark.parametrize("verb", ["exec", "start", "stop", "pause", "resume"])
async def test_an_unknown_instance_is_not_found(gateway: Any, verb: str) -> None:
    answer = await gateway.client.post(
        f"/api/v1/instances/{UNKNOWN}/{verb}", json={"command": "true"}
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"image": "a b"}, "$.image"),
        ({"memory_mb": 1}, "$.memory_mb"),
        ({"memory_mb": 10**7}, "$.memory_mb"),
        ({"name": "a/b"}, "$.name"),
        ({"ttl_seconds": 0}, "$.ttl_seconds"),
        ({"idle_action": "explode"}, "$.idle_action"),
        ({"disk_mb": 1, "disk_gb": 1}, "$.disk_gb"),
        ({"nmae": "x"}, "$.nmae"),
    ],
)
async def test_a_wrong_instance_is_refused_by_field(gateway: Any, body: Any, path: str) -> None:
    answer = await gateway.client.post("/api/v1/instances", json=body)
    assert answer.status_code == 400
    assert path in answer.json()["detail"]
    assert (await gateway.client.get("/api/v1/instances")).json() == []


async def test_ssh_is_refused_and_an_image_beside_a_snapshot_too(gateway: Any) -> None:
    answer = await gateway.client.post("/api/v1/instances", json={"enable_ssh": True})
    assert answer.status_code == 501
    both = {"image": "host", "snapshot_id": "snap-01k9zjv3f8q5r2m7c4x6w0n1ab"}
    assert (await gateway.client.post("/api/v1/instances", json=both)).status_code == 400
    missing = {"snapshot_id": both["snapshot_id"]}
    answer = await gateway.client.post("/api/v1/instances", json=missing)
    assert (answer.status_code, answer.json()["code"]) == (404, "snapshot_not_found")


async def test_files_are_written_read_listed_moved_and_removed(gateway: Any) -> None:
    made = await make(gateway)
    files = f"/api/v1/instances/{made['id']}/files"
    at = {"path": "/workspace/a.bin"}
    data = bytes(range(256))
    put = await gateway.client.put(files, params={**at, "mode": "0755"}, content=data)
    assert put.status_code == 204
    whole = await gateway.client.get(files, params=at)
    assert (whole.content, whole.headers["x-ended"]) == (data, "true")
    part = await gateway.client.get(files, params={**at, "offset": 10, "limit": 5})
    assert (part.content, part.headers["x-next-offset"], part.headers["x-ended"]) == (
        data[10:15],
        "15",
        "false",
    )
    stat = (await gateway.client.get(f"{files}/stat", params=at)).json()
    assert (stat["kind"], stat["size_bytes"], stat["mode"]) == ("file", 256, "0755")
    move = {"source": "/workspace/a.bin", "target": "/workspace/b.bin"}
    assert (await gateway.client.post(f"{files}/move", json=move)).status_code == 204
    await gateway.client.post(f"{files}/mkdir", json={"path": "/workspace/sub/deep"})
    listed = (await gateway.client.get(f"{files}/list", params={"path": "/workspace"})).json()
    assert [entry["name"] for entry in listed["entries"]] == ["b.bin", "sub"]
    for path, recursive in (("/workspace/b.bin", "false"), ("/workspace/sub", "true")):
        gone = await gateway.client.delete(files, params={"path": path, "recursive": recursive})
        assert gone.status_code == 204
    listed = (await gateway.client.get(f"{files}/list", params={"path": "/workspace"})).json()
    assert listed["entries"] == []


@pytest.mark.parametrize("path", ["", "a", "/" + "x" * 256, "/a\0b", "/x/" * 3000])
async def test_a_path_that_is_none_is_refused(gateway: Any, path: str) -> None:
    made = await make(gateway)
    answer = await gateway.client.get(
        f"/api/v1/instances/{made['id']}/files", params={"path": path}
    )
    assert answer.status_code == 400


async def test_a_file_that_is_not_there_is_not_found(gateway: Any) -> None:
    made = await make(gateway)
    files = f"/api/v1/instances/{made['id']}/files"
    assert (await gateway.client.get(files, params={"path": "/nope"})).status_code == 404
    assert (await gateway.client.get(files)).status_code == 400


async def test_a_tree_goes_in_and_out_as_a_tar(gateway: Any) -> None:
    made = await make(gateway)
    archive = f"/api/v1/instances/{made['id']}/archive"
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        info = tarfile.TarInfo("src/main.py")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"x = 1"))
    at = {"path": "/workspace"}
    assert (
        await gateway.client.put(archive, params=at, content=sink.getvalue())
    ).status_code == 204
    answer = await gateway.client.get(archive, params=at)
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert tar.extractfile("src/main.py").read() == b"x = 1"  # type: ignore[union-attr]
    missing = await gateway.client.get(archive, params={"path": "/nope"})
    assert missing.status_code == 404


async def test_another_tenants_instance_is_not_found(open_gateway: Any) -> None:
    def key(name: str, *scopes: Scope) -> ApiKey:
        return ApiKey.of(name, Principal(Tenant(TenantId(name)), frozenset(scopes)))

    settings = GatewaySettings(
        api_keys=(key("a", Scope.ADMIN), key("b", Scope.ADMIN), key("reader", Scope.READ))
    )
    gateway = await open_gateway(settings)
    post = gateway.client.post
    made = (await post("/api/v1/instances", json={}, headers={"X-API-Key": "a"})).json()
    at = f"/api/v1/instances/{made['id']}"
    assert (await gateway.client.get(at, headers={"X-API-Key": "b"})).status_code == 404
    assert (await gateway.client.delete(at, headers={"X-API-Key": "b"})).status_code == 404
    assert (await gateway.client.get(at, headers={"X-API-Key": "a"})).status_code == 200
    refused = await post("/api/v1/instances", json={}, headers={"X-API-Key": "reader"})
    assert refused.status_code == 403
    assert (await gateway.client.get(at)).status_code == 401


async def test_instances_are_listed_by_pages(gateway: Any) -> None:
    made = [(await make(gateway))["id"] for _ in range(5)][::-1]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await gateway.client.get("/api/v1/instances", params={"limit": 2, **cursor})
        seen += [item["id"] for item in page.json()]
        if "x-next-cursor" not in page.headers:
            break
        cursor = {"cursor": page.headers["x-next-cursor"]}
    assert seen == sorted(made, reverse=True)
    for query in ({"limit": 0}, {"cursor": "exec-1"}, {"page": 2}):
        assert (await gateway.client.get("/api/v1/instances", params=query)).status_code == 400


async def test_an_instance_is_resized_by_what_is_named(gateway: Any) -> None:
    made = await make(gateway, memory_mb=128, cpu_cores=1)
    at = f"/api/v1/instances/{made['id']}/resize"
    resized = await gateway.client.post(at, json={"memory_mb": 256})
    assert resized.status_code == 200, resized.text
    assert (resized.json()["memory_mb"], resized.json()["cpu_cores"]) == (256, 1.0)
    for body, status in (
        ({"disk_mb": 9000}, 501),
        ({"memory_mb": 10**7}, 400),
        ({"cpu_cores": 0}, 400),
        ({"ram": 1}, 400),
    ):
        assert (await gateway.client.post(at, json=body)).status_code == status, body


async def test_a_lease_is_told_renewed_and_ended(gateway: Any) -> None:
    made = await make(gateway, lease_seconds=60)
    assert made["lease_until"] is not None
    at = f"/api/v1/instances/{made['id']}/lease"
    renewed = (await gateway.client.post(at, json={"seconds": 600})).json()
    assert renewed["lease_until"] > made["lease_until"]
    ended = (await gateway.client.post(at, json={"seconds": None})).json()
    assert (ended["lease_seconds"], ended["lease_until"]) == (None, None)
    assert (await gateway.client.post(at, json={})).status_code == 400


async def test_a_port_is_exposed_listed_and_closed(gateway: Any) -> None:
    made = await make(gateway, name="web")
    at = "/api/v1/instances/web/ports"
    exposed = (await gateway.client.post(at, json={"port": 8000})).json()
    name = f"8000-{made['id'].removeprefix('inst-')}"
    assert exposed["url"] == f"http://{name}.localhost:8080/"
    assert exposed["open_url"] == f"{exposed['url']}?faas_token={exposed['token']}"
    assert exposed["path"] == f"/api/v1/instances/{made['id']}/ports/8000/proxy/"
    [listed] = (await gateway.client.get(at)).json()
    assert (listed["port"], listed["token"], listed["open_url"]) == (8000, None, None)
    assert (await gateway.client.get("/api/v1/instances/web")).json()["ports"] == [8000]
    closed = await gateway.client.get(exposed["path"])
    assert (closed.status_code, closed.json()["code"]) == (502, "port_closed")
    assert (await gateway.client.delete(f"{at}/8000")).status_code == 204
    assert (await gateway.client.get(at)).json() == []
    for path in (f"{at}/8000", f"{at}/x", f"{at}/0"):
        assert (await gateway.client.delete(path)).status_code == 404
    assert (await gateway.client.get(exposed["path"])).status_code == 404
    for body in ({"port": 0}, {"port": "80"}, {}, {"port": 80, "subdomain": "A"}, {"prot": 1}):
        assert (await gateway.client.post(at, json=body)).status_code == 400, body
    assert (await gateway.client.post(at, json={"port": 1, "protocol": "tcp"})).status_code == 501


async def test_a_watch_tells_what_changes_and_ends_with_the_instance(gateway: Any) -> None:
    made = await make(gateway)
    at = f"/api/v1/instances/{made['id']}"
    sandbox = gateway.platform.host.boxes[made["container_id"]]
    sandbox.files["/workspace/old"] = b"1"
    sandbox.modes["/workspace/old"] = 0o644

    async def change() -> None:
        for name in ("a", "b"):
            await asyncio.sleep(0.8)
            await gateway.client.put(
                f"{at}/files", params={"path": f"/workspace/{name}"}, content=b""
            )
        await asyncio.sleep(0.8)
        await gateway.client.delete(f"{at}/files", params={"path": "/workspace/old"})
        await asyncio.sleep(0.8)
        await gateway.client.delete(at)

    changing = asyncio.ensure_future(change())
    answer = await gateway.client.get(f"{at}/files/watch", params={"path": "/workspace"})
    await changing
    told = [block for block in answer.text.split("\n\n") if block.startswith("event:")]
    kinds = [block.split("\n")[0].removeprefix("event: ") for block in told]
    events = [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in told]
    assert (kinds[0], kinds[-1]) == ("ready", "end")
    assert [(e["event"], e["path"]) for e in events[1:-1]] == [
        ("created", "/workspace/a"),
        ("created", "/workspace/b"),
        ("deleted", "/workspace/old"),
    ]
    missing = await gateway.client.get(f"{at}/files/watch", params={"path": "/workspace"})
    assert missing.status_code == 404
