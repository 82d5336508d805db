"""Every wrong request gets a clear answer that names what is wrong, and runs nothing."""

import base64
from typing import Any

import pytest

from faas.gateway import GatewaySettings
from faas.model import Limits

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "$.command", "is missing"),
    ({"command": ""}, "$.command", "length >= 1"),
    ({"command": []}, "$.command", "length >= 1"),
    ({"command": ["", "x"]}, "$.command[0]", "empty"),
    ({"command": 7}, "$.command", "str"),
    ({"command": ["echo", 7]}, "$.command[1]", "str"),
    ({"command": "a\0b"}, "$.command", "NUL"),
    ({"command": ["echo", "a\0b"]}, "$.command[1]", "NUL"),
    ({"command": "x" * 131_073}, "$.command", "131071"),
    ({"command": ["x"] + ["y" * 100_000] * 10}, "$.command", "900000"),
    ({"command": "true", "comand": 1}, "$.comand", "did you mean 'command'"),
    ({"command": "true", "image": ""}, "$.image", "length >= 1"),
    ({"command": "true", "image": "a b"}, "$.image", "blanks"),
    ({"command": "true", "image": "a\0b"}, "$.image", "control"),
    ({"command": "true", "runtime": "podman"}, "$.runtime", "'firecracker'"),
    ({"command": "true", "runtime": "Docker"}, "$.runtime", "'docker'"),
    ({"command": "true", "mode": "turbo"}, "$.mode", "'checkpointed'"),
    ({"command": "true", "network": "host"}, "$.network", "'none'"),
    ({"command": "true", "isolation": "vault"}, "$.isolation", "'userns'"),
    ({"command": "true", "timeout_ms": 0}, "$.timeout_ms", ">= 1"),
    ({"command": "true", "timeout_ms": -5}, "$.timeout_ms", ">= 1"),
    ({"command": "true", "timeout_ms": "1"}, "$.timeout_ms", "int"),
    ({"command": "true", "timeout_ms": 10**30}, "$.timeout_ms", ""),
    ({"command": "true", "timeout_ms": 3_600_001}, "$.timeout_ms", "ceiling of 3600000"),
    ({"command": "true", "memory_mb": -1}, "$.memory_mb", ">= 8"),
    ({"command": "true", "memory_mb": 10**9}, "$.memory_mb", "ceiling of 16384"),
    ({"command": "true", "cpu_cores": 0}, "$.cpu_cores", ">= 0.01"),
    ({"command": "true", "cpu_cores": 1e308}, "$.cpu_cores", "ceiling of 16"),
    ({"command": "true", "pids_max": 10**6}, "$.pids_max", "ceiling of 4096"),
    ({"command": "true", "disk_mb": 10**9}, "$.disk_mb", "ceiling of 16384"),
    ({"command": "true", "output_limit": -1}, "$.output_limit", ">= 0"),
    ({"command": "true", "output_limit": 10**11}, "$.output_limit", "ceiling of 67108864"),
    ({"command": "true", "env_vars": {"A B": "x"}}, "$.env_vars['A B']", "not a name"),
    ({"command": "true", "env_vars": {"": "x"}}, "$.env_vars['']", "not a name"),
    ({"command": "true", "env_vars": [["1X", "x"]]}, "$.env_vars[0]", "not a name"),
    ({"command": "true", "env_vars": [["A=B", "x"]]}, "$.env_vars[0]", "not a name"),
    ({"command": "true", "env_vars": [["A", "x", "y"]]}, "$.env_vars[0]", "length 2"),
    ({"command": "true", "env_vars": ["A"]}, "$.env_vars[0]", "no `=`"),
    ({"command": "true", "env_vars": {"A": "x\0"}}, "$.env_vars['A']", "NUL"),
    ({"command": "true", "env_vars": {"A": 1}}, "$.env_vars[...]", "str"),
    ({"command": "true", "env_vars": "A=1"}, "$.env_vars", "str"),
    ({"command": "true", "env_vars": {"A": "x" * 131_072}}, "$.env_vars", "131071"),
    ({"command": "true", "working_dir": "tmp"}, "$.working_dir", "absolute"),
    ({"command": "true", "working_dir": ""}, "$.working_dir", "length >= 1"),
    ({"command": "true", "working_dir": "/a\0b"}, "$.working_dir", "NUL"),
    ({"command": "true", "working_dir": "/" + "x" * 256}, "$.working_dir", "255"),
    ({"command": "true", "working_dir": "/" + "x/" * 3000}, "$.working_dir", "4096"),
    ({"command": "true", "payload": [256]}, "$.payload[0]", "<= 255"),
    ({"command": "true", "payload": {"base64": "%"}}, "$.payload.base64", "base64"),
    ({"command": "true", "payload": {"text": "x"}}, "$.payload.text", "Known are: base64"),
    ({"command": "true", "payload_base64": "a"}, "$.payload_base64", "base64"),
    ({"command": "true", "payload": "x", "payload_base64": "eA=="}, "$.payload_base64", "one of"),
    ({"command": "true", "archive_base64": "!"}, "$.archive_base64", "base64"),
    ({"command": "true", "files": [{"path": "a"}]}, "$.files[0]", "content"),
    (
        {"command": "true", "files": [{"path": "a", "content": "", "content_base64": ""}]},
        "$.files[0]",
        "only one",
    ),
    ({"command": "true", "files": [{"path": "../a", "content": ""}]}, "$.files[0].path", "`..`"),
    ({"command": "true", "files": [{"path": "a/", "content": ""}]}, "$.files[0].path", "directory"),
    ({"command": "true", "files": [{"path": "a\0", "content": ""}]}, "$.files[0].path", "NUL"),
    (
        {"command": "true", "files": [{"path": "a", "content": "", "mode": 8**6}]},
        "$.files[0].mode",
        "7777",
    ),
    (
        {"command": "true", "files": [{"path": "a", "content": "", "mode": "rwx"}]},
        "$.files[0].mode",
        "octal",
    ),
    ({"command": "true", "files": [{"path": "a", "kontent": ""}]}, "$.files[0].kontent", "known"),
    ({"command": "true", "user": "root"}, "$.user", "uid"),
    ({"command": "true", "user": "0:65536"}, "$.user", "65536"),
    ({"command": "true", "tty": "yes"}, "$.tty", "bool"),
    ({"command": "true", "wait": None}, "$.wait", "bool"),
]


@pytest.mark.parametrize(("body", "path", "words"), WRONG, ids=lambda value: str(value)[:40])
async def test_a_wrong_field_is_refused_by_its_path(
    gateway: Any, body: dict[str, Any], path: str, words: str
) -> None:
    answer = await gateway.execute(**body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "invalid_argument")
    faults = {fault["path"]: fault["message"] for fault in problem["details"]["problems"]}
    assert path in faults
    assert words in faults[path]
    assert gateway.platform.host.started == []


async def test_all_faults_of_a_request_are_named_at_once(gateway: Any) -> None:
    answer = await gateway.execute(
        mode="turbo", colour="red", working_dir="here", env_vars={"A B": "x"}, timeout_ms=-1
    )
    paths = {fault["path"] for fault in answer.json()["details"]["problems"]}
    assert paths == {
        "$.command",
        "$.mode",
        "$.colour",
        "$.working_dir",
        "$.env_vars['A B']",
        "$.timeout_ms",
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b'{"command": "a" "b"}', b"\xff\xfe", b'{"command": "\\ud800"}'],
)
async def test_a_body_that_is_not_json_is_a_400(gateway: Any, body: bytes) -> None:
    answer = await gateway.client.post(
        "/api/v1/execute", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["details"]["problems"][0]["message"].startswith("is not valid JSON")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"7", b"null"])
async def test_a_body_that_is_not_an_object_is_a_400(gateway: Any, body: bytes) -> None:
    answer = await gateway.client.post(
        "/api/v1/execute", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, "object" in answer.json()["detail"]) == (400, True)


async def test_json_nested_a_hundred_thousand_deep_is_a_400(gateway: Any) -> None:
    body = b'{"command": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = await gateway.client.post(
        "/api/v1/execute", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_of_another_type_is_a_415_that_names_the_right_one(
    gateway: Any, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await gateway.client.post(
        "/api/v1/execute", content=b'{"command": "true"}', headers=headers
    )
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (415, "unsupported_media_type")
    assert problem["details"]["supported"] == ["application/json"]


async def test_a_body_that_says_it_is_too_large_is_refused_unread(open_gateway: Any) -> None:
    gateway = await open_gateway(GatewaySettings(body_bytes_max=1000))
    answer = await gateway.execute(command="true", payload="x" * 1000)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (413, "too_large")
    assert problem["details"] == {"body_bytes_max": 1000}


async def test_a_body_that_does_not_tell_its_size_is_cut_off_while_it_is_read(
    open_gateway: Any,
) -> None:
    gateway = await open_gateway(GatewaySettings(body_bytes_max=1000))
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b"x" * 100

    answer = await gateway.client.post(
        "/api/v1/execute", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert sent <= 1200


async def test_the_ceilings_are_those_of_the_settings(open_gateway: Any) -> None:
    gateway = await open_gateway(GatewaySettings(limits_max=Limits(timeout_ms=500)))
    answer = await gateway.execute(command="true", timeout_ms=501)
    assert "ceiling of 500" in answer.json()["detail"]
    assert (await gateway.execute(command="true", timeout_ms=500)).status_code == 200
    assert (await gateway.execute(command="true")).status_code == 200


@pytest.mark.parametrize("runtime", ["docker", "firecracker", "microvm"])
async def test_a_known_runtime_that_is_not_here_says_what_is(gateway: Any, runtime: str) -> None:
    answer = await gateway.execute(command="true", runtime=runtime)
    assert (answer.status_code, answer.json()["details"]) == (501, {"supported": ["fake"]})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v1/executions?limit=0", "limit"),
        ("/api/v1/executions?limit=x", "limit"),
        ("/api/v1/executions?limit=1&limit=2", "twice"),
        ("/api/v1/executions?state=dead", "state"),
        ("/api/v1/executions?cursor=7", "id"),
        ("/api/v1/executions?colour=red", "colour"),
        ("/api/v1/executions?state=%ff", "query"),
    ],
)
async def test_a_wrong_query_is_a_400_that_names_it(gateway: Any, path: str, words: str) -> None:
    answer = await gateway.client.get(path)
    assert (answer.status_code, words in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/executions/nonsense",
        "/api/v1/executions/exec-00000000000000000000000000",
        "/api/v1/executions/..%2f..%2fetc",
        "/api/v1/executions/nonsense/logs",
        "/api/v1/logs/exec-00000000000000000000000000/stream",
    ],
)
async def test_an_unknown_execution_is_a_404(gateway: Any, path: str) -> None:
    answer = await gateway.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_unknown_path_is_a_404_and_a_wrong_method_a_405(gateway: Any) -> None:
    missing = await gateway.client.get("/api/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "route_not_found")
    wrong = await gateway.client.delete("/api/v1/execute")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_a_route_of_a_later_issue_is_a_501_that_lists_what_is_there(gateway: Any) -> None:
    answer = await gateway.client.post("/api/v1/functions", json={})
    assert answer.status_code == 501
    assert any("/api/v1/execute" in row for row in answer.json()["details"]["supported"])


@pytest.mark.parametrize("key", ["", " ", "a\x7f", "x" * 256, "sch\u00f6n"])
async def test_an_idempotency_key_that_is_not_printable_ascii_is_a_400(
    gateway: Any, key: str
) -> None:
    answer = await gateway.client.post(
        "/api/v1/execute",
        json={"command": "true"},
        headers=[(b"Idempotency-Key", key.encode())],
    )
    assert (answer.status_code, "Idempotency-Key" in answer.json()["detail"]) == (400, True)


async def test_stdin_of_wrong_shape_is_refused(gateway: Any) -> None:
    started = await gateway.execute(command="cat", stdin_open=True, wait=False)
    path = f"/api/v1/executions/{started.json()['execution_id']}/stdin"
    both = {"data": "x", "data_base64": base64.b64encode(b"x").decode()}
    assert (await gateway.client.post(path, json=both)).status_code == 400
    assert (await gateway.client.post(path, json={"data": 7})).status_code == 400
    assert (await gateway.client.post(path, json={"offset": -1})).status_code == 400
    text = {"Content-Type": "text/plain"}
    assert (await gateway.client.post(path, content=b"x", headers=text)).status_code == 415
    raw = {"Content-Type": "application/octet-stream"}
    query = await gateway.client.post(f"{path}?last=maybe", content=b"x", headers=raw)
    assert query.status_code == 400


async def test_the_cache_key_that_the_originals_clients_always_send_is_no_reason_to_refuse(
    gateway: Any,
) -> None:
    first = (await gateway.execute(command="echo hi", cache_key="k")).json()
    second = (await gateway.execute(command="echo hi", cache_key="k")).json()
    assert (first["cache_hit"], second["cache_hit"]) == (False, False)
    assert len(gateway.platform.host.started) == 2
