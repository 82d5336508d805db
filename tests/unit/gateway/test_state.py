"""Modes, forks, merges and snapshots over HTTP."""

import pytest

from faas.gateway import GatewaySettings

FILE = [{"path": "/tmp/state.txt", "content": "initial state"}]
NOBODY = "exec-01k9zjv3f8q5r2m7c4x6w0n1ab"


async def test_a_repeated_cached_request_is_a_hit(gateway):
    first, second = [(await gateway.execute(command="echo hi", mode="cached")).json() for _ in "ab"]
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert second["stdout"] == "hi\n"
    assert first["request_id"] != second["request_id"]


async def test_a_checkpoint_tells_its_snapshot_which_runs_on(gateway):
    kept = (await gateway.execute(command="true", mode="checkpointed", files=FILE)).json()
    assert kept["snapshot_id"].startswith("snap-")
    again = await gateway.execute(
        command="true", mode="checkpointed", snapshot_id=kept["request_id"]
    )
    assert (again.status_code, again.json()["exit_code"]) == (200, 0)
    parent = (await gateway.client.get(f"/api/v1/snapshots/{again.json()['snapshot_id']}")).json()
    assert parent["parent"] == kept["snapshot_id"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"mode": "branched"}, 400, "branch_from required"),
        ({"mode": "branched", "branch_from": NOBODY}, 404, "no such execution"),
        ({"mode": "checkpointed", "snapshot_id": "snap-x"}, 404, "Snapshot not found"),
        ({"branch_from": NOBODY}, 400, "branch_from goes with"),
        ({"mode": "cached", "snapshot_id": "snap-x"}, 400, "starts from no parent"),
    ],
)
async def test_a_wrong_parent_is_named(gateway, body, status, said):
    answer = await gateway.execute(command="true", **body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


async def test_one_call_forks_many_in_order(gateway):
    parent = (await gateway.execute(command="true", files=FILE)).json()["request_id"]
    children = [{"command": f"echo {i}"} for i in range(12)]
    answer = await gateway.client.post(
        "/api/v1/fork", json={"branch_from": parent, "children": children}
    )
    assert answer.status_code == 200
    assert [child["stdout"] for child in answer.json()] == [f"{i}\n" for i in range(12)]


async def test_the_older_forms_of_fork_work(gateway):
    parent = (await gateway.execute(command="true")).json()["request_id"]
    one = await gateway.client.post(
        f"/api/v1/executions/{parent}/fork", json={"command": "echo child"}
    )
    assert (one.json()["stdout"], one.json()["mode"]) == ("child\n", "branched")
    many = await gateway.client.post(
        "/api/v1/fork", json={"branch_from": parent, "command": "echo child"}
    )
    assert [child["stdout"] for child in many.json()] == ["child\n"]


@pytest.mark.parametrize("body", [{"branch_from": NOBODY}, {"command": "true"}, {"children": []}])
async def test_a_fork_without_parent_or_child_is_refused(gateway, body):
    assert (await gateway.client.post("/api/v1/fork", json=body)).status_code == 400


async def test_the_first_child_that_passes_wins(gateway):
    parent = (await gateway.execute(command="true")).json()["request_id"]
    race = await gateway.client.post(
        "/api/v1/branches/race",
        json={
            "branch_from": parent,
            "children": [{"command": "exit 1"}, {"command": "echo good"}, {"command": "sleep 30"}],
            "check": "true",
        },
    )
    told = race.json()
    assert race.status_code == 200
    assert told["winner"] == told["children"][1]["request_id"]
    assert told["snapshot_id"] == told["children"][1]["snapshot_id"]
    assert told["children"][2]["reason"] == "cancelled"


async def test_a_race_that_nobody_passes_has_no_winner(gateway):
    parent = (await gateway.execute(command="true")).json()["request_id"]
    body = {"branch_from": parent, "children": [{"command": "true"}], "check": "exit 1"}
    told = (await gateway.client.post("/api/v1/branches/race", json=body)).json()
    assert (told["winner"], told["snapshot_id"]) == (None, None)


async def test_branches_become_one_snapshot(gateway):
    parent = (await gateway.execute(command="true", files=FILE)).json()["request_id"]
    branches = []
    for content in ("one", "two"):
        files = [{"path": "/tmp/state.txt", "content": content}]
        fork = {"command": "true", "files": files}
        child = await gateway.client.post(f"/api/v1/executions/{parent}/fork", json=fork)
        branches.append(child.json()["request_id"])
    merged = await gateway.client.post(
        "/api/v1/branches/merge", json={"branches": branches, "strategy": "theirs"}
    )
    told = merged.json()
    assert merged.status_code == 200
    assert [conflict["path"] for conflict in told["conflicts"]] == ["tmp/state.txt"]
    ran = await gateway.execute(command="true", snapshot_id=told["snapshot_id"])
    assert ran.status_code == 200


async def kept(gateway, **more):
    ran = (await gateway.execute(command="true", files=FILE)).json()
    body = {"container_id": ran["request_id"], **more}
    answer = await gateway.client.post("/api/v1/snapshots", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_snapshot_is_made_listed_tagged_and_deleted(gateway):
    made = await kept(gateway, name="base", description="first", tags=["x"])
    assert (made["name"], made["tags"], made["size_bytes"]) == ("base", ["x"], 13)
    assert (await gateway.client.get("/api/v1/snapshots")).json() == [made]
    at = f"/api/v1/snapshots/{made['id']}"
    tagged = (await gateway.client.post(f"{at}/tags", json={"tags": ["y"]})).json()
    assert (tagged["name"], tagged["tags"]) == ("base", ["y"])
    assert (await gateway.client.post(f"{at}/verify")).json()["ok"] is True
    assert (await gateway.client.delete(at)).status_code == 204
    assert (await gateway.client.get(at)).status_code == 404


async def test_a_sandbox_id_names_its_execution(gateway):
    ran = (await gateway.execute(command="true", files=FILE)).json()
    body = {"container_id": ran["container_id"]}
    assert (await gateway.client.post("/api/v1/snapshots", json=body)).json()["size_bytes"] == 13


async def test_a_snapshot_of_nothing_is_not_found(gateway):
    for unknown in (NOBODY, "sbx-x", "test-container-123"):
        answer = await gateway.client.post("/api/v1/snapshots", json={"container_id": unknown})
        assert answer.status_code == 404


async def test_pages_of_snapshots_follow_each_other(gateway):
    made = [(await kept(gateway))["id"] for _ in range(3)]
    first = await gateway.client.get("/api/v1/snapshots?limit=2")
    cursor = first.headers["x-next-cursor"]
    rest = await gateway.client.get(f"/api/v1/snapshots?limit=2&cursor={cursor}")
    found = [one["id"] for one in (*first.json(), *rest.json())]
    assert sorted(found) == sorted(made)
    assert "x-next-cursor" not in rest.headers


async def test_a_parent_is_not_deleted_under_its_child(gateway):
    parent = (await gateway.execute(command="true", mode="checkpointed")).json()["snapshot_id"]
    await gateway.execute(command="true", mode="checkpointed", snapshot_id=parent)
    assert (await gateway.client.delete(f"/api/v1/snapshots/{parent}")).status_code == 409


async def test_what_differs_is_listed(gateway):
    base = await kept(gateway)
    changed = [{"path": "/tmp/new.txt", "content": "new"}]
    child = await gateway.execute(
        command="true", mode="checkpointed", snapshot_id=base["id"], files=changed
    )
    told = await gateway.client.get(
        f"/api/v1/snapshots/{base['id']}/diff/{child.json()['snapshot_id']}"
    )
    changes = told.json()["changes"]
    assert [(c["path"], c["kind"], c["size_after"]) for c in changes] == [
        ("tmp/new.txt", "added", 3)
    ]


async def test_a_snapshot_travels_as_one_file(gateway):
    made = await kept(gateway)
    file = await gateway.client.get(f"/api/v1/snapshots/{made['id']}/export")
    back = await gateway.client.post(
        "/api/v1/snapshots/import",
        content=file.content,
        headers={"Content-Type": "application/octet-stream"},
    )
    assert back.status_code == 200
    assert back.json()["id"] != made["id"]
    spoiled = await gateway.client.post(
        "/api/v1/snapshots/import",
        content=b"nonsense",
        headers={"Content-Type": "application/octet-stream"},
    )
    assert spoiled.status_code == 400


async def test_a_snapshot_becomes_an_instance(gateway):
    made = await kept(gateway)
    answer = await gateway.client.post(f"/api/v1/snapshots/{made['id']}/restore")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["from_snapshot"]) == ("running", made["id"])


async def test_a_snapshot_file_is_announced_with_its_length_and_asked_for_by_head(gateway):
    made = await kept(gateway)
    at = f"/api/v1/snapshots/{made['id']}/export"
    file = await gateway.client.get(at)
    head = await gateway.client.head(at)
    assert head.headers["content-length"] == str(len(file.content))
    assert (head.content, head.headers["content-disposition"]) == (
        b"",
        f'attachment; filename="{made["id"]}.faas-snapshot"',
    )


async def test_a_snapshot_file_that_is_too_long_is_refused(open_gateway):
    gateway = await open_gateway(GatewaySettings(import_bytes_max=2000))
    made = await kept(gateway)
    file = await gateway.client.get(f"/api/v1/snapshots/{made['id']}/export")
    refused = await gateway.client.post(
        "/api/v1/snapshots/import",
        content=file.content,
        headers={"Content-Type": "application/octet-stream"},
    )
    assert refused.status_code == 413
    assert "import_bytes_max" in refused.json()["hint"]


async def test_a_snapshot_says_how_long_it_is_kept(gateway):
    made = await kept(gateway, keep_seconds=3600)
    assert made["expires_at"] is not None
    at = f"/api/v1/snapshots/{made['id']}/tags"
    named = (await gateway.client.post(at, json={"name": "still"})).json()
    assert named["expires_at"] == made["expires_at"]
    longer = (await gateway.client.post(at, json={"keep_seconds": 7200})).json()
    assert longer["expires_at"] > made["expires_at"]
    always = (await gateway.client.post(at, json={"keep_seconds": 0})).json()
    assert (always["expires_at"], always["name"]) == (None, "still")
    wrong = {"container_id": made["container_id"], "keep_seconds": 0}
    assert (await gateway.client.post("/api/v1/snapshots", json=wrong)).status_code == 400


async def test_an_instance_is_kept_and_forked_by_its_name(gateway):
    await gateway.client.post("/api/v1/instances", json={"name": "keeper"})
    body = {"container_id": "keeper"}
    made = (await gateway.client.post("/api/v1/snapshots", json=body)).json()
    assert made["container_id"].startswith("inst-")
    fork = {"branch_from": "keeper", "children": [{"command": "echo child"}]}
    [child] = (await gateway.client.post("/api/v1/fork", json=fork)).json()
    assert child["stdout"] == "child\n"
