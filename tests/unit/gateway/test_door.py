"""Trace ids, keys, problems, health, the documents: what holds for every route."""

import logging
from typing import Any

import pytest

from faas.errors import StoreUnavailableError
from faas.events import AuthenticationFailed
from faas.gateway import ApiKey, GatewaySettings
from faas.ids import TenantId
from faas.sandbox.isolation import ISOLATION_LADDER
from faas.tenancy import Principal, Scope, Tenant

OPEN_PATHS = ("/health", "/openapi.json", "/docs")


def key(text: str, name: str, *scopes: Scope) -> ApiKey:
    return ApiKey.of(text, Principal(Tenant(TenantId(name)), frozenset(scopes)))


KEYS = GatewaySettings(
    api_keys=(
        key("sesame", "ali", Scope.EXECUTE, Scope.READ),
        key("reader", "ali", Scope.READ),
        key("other", "baba", Scope.EXECUTE, Scope.READ),
    )
)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def test_a_trace_id_is_made_for_each_request(gateway: Any) -> None:
    ids = {(await gateway.client.get("/health")).headers["x-trace-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "abc-1"}, "abc-1"),
        ({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}, "ab" * 16),
        ({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "X-Request-Id": "x"}, "ab" * 16),
    ],
)
async def test_the_callers_trace_id_is_kept(
    gateway: Any, headers: dict[str, str], expected: str
) -> None:
    answer = await gateway.client.get("/api/v1/nothing", headers=headers)
    assert answer.headers["x-trace-id"] == expected
    assert answer.json()["trace_id"] == expected


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>"])
async def test_a_trace_id_that_could_harm_a_log_is_replaced(gateway: Any, given: str) -> None:
    answer = await gateway.client.get("/health", headers={"X-Request-Id": given})
    assert answer.headers["x-trace-id"] != given


async def test_without_a_key_nothing_but_the_open_paths_is_served(open_gateway: Any) -> None:
    gateway = await open_gateway(KEYS)
    for path in OPEN_PATHS:
        assert (await gateway.client.get(path)).status_code == 200, path
    answer = await gateway.execute(command="true")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await gateway.client.get("/api/v1/nothing")).status_code == 401
    assert AuthenticationFailed("/api/v1/execute") in gateway.platform.events
    assert gateway.platform.host.started == []


@pytest.mark.parametrize("headers", [bearer("sesame"), {"X-API-Key": "sesame"}])
async def test_a_key_is_taken_in_both_headers(open_gateway: Any, headers: dict[str, str]) -> None:
    gateway = await open_gateway(KEYS)
    assert (await gateway.execute(headers, command="true")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [bearer("wrong"), bearer(""), {"X-API-Key": "wrong"}, {"Authorization": "Basic sesame"}],
)
async def test_a_wrong_key_is_a_401(open_gateway: Any, headers: dict[str, str]) -> None:
    gateway = await open_gateway(KEYS)
    assert (await gateway.execute(headers, command="true")).status_code == 401


async def test_a_key_without_the_scope_is_a_403_that_names_it(open_gateway: Any) -> None:
    gateway = await open_gateway(KEYS)
    answer = await gateway.execute(bearer("reader"), command="true")
    assert (answer.status_code, answer.json()["details"]) == (403, {"scope": "execute"})


async def test_another_tenants_execution_is_not_found(open_gateway: Any) -> None:
    gateway = await open_gateway(KEYS)
    made = (await gateway.execute(bearer("sesame"), command="true")).json()["request_id"]
    path = f"/api/v1/executions/{made}"
    own = await gateway.client.get(path, headers=bearer("reader"))
    foreign = await gateway.client.get(path, headers=bearer("other"))
    assert (own.status_code, foreign.status_code) == (200, 404)
    logs = await gateway.client.get(f"{path}/logs", headers=bearer("other"))
    stream = await gateway.client.get(f"/api/v1/logs/{made}/stream", headers=bearer("other"))
    assert (logs.status_code, stream.status_code) == (404, 404)


async def test_an_exception_nobody_expected_is_told_without_its_words(
    gateway: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def explode(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr(type(gateway.platform.executor), "list", explode)
    with caplog.at_level(logging.ERROR, logger="faas.gateway.problems"):
        answer = await gateway.client.get("/api/v1/executions")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert len(caplog.records) == 1
    assert caplog.records[0].__dict__["trace_id"] == answer.json()["trace_id"]


async def test_a_failure_of_ours_says_whether_and_when_to_come_back(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("the store sleeps", hint="wake it", retry_after_seconds=2.5)

    monkeypatch.setattr(type(gateway.platform.executor), "list", refuse)
    answer = await gateway.client.get("/api/v1/executions")
    problem = answer.json()
    del problem["trace_id"]
    assert answer.headers["retry-after"] == "3"
    assert problem == {
        "type": "urn:faas:error:store_unavailable",
        "title": "The object store does not answer",
        "status": 503,
        "code": "store_unavailable",
        "detail": "the store sleeps",
        "hint": "wake it",
        "retryable": True,
    }


async def test_health_tells_what_the_probes_found(gateway: Any) -> None:
    answer = await gateway.client.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"], body["version"]) == (200, "healthy", "1.2.3")
    assert (body["docker"], body["firecracker"], body["embedded"]) == (False, False, False)
    assert body["components"]["fake"]["status"] == "available"
    assert isinstance(body["timestamp"], str)
    assert body["uptime_ms"] >= 0


async def test_health_is_503_when_nothing_can_run(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(type(gateway.platform.executor), "runtimes", nothing)
    answer = await gateway.client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")


async def test_health_tells_details_only_to_those_with_a_key(open_gateway: Any) -> None:
    gateway = await open_gateway(KEYS)
    stranger = (await gateway.client.get("/health")).json()
    known = (await gateway.client.get("/health", headers=bearer("sesame"))).json()
    assert stranger["components"] == {"fake": {"status": "available"}}
    assert "detail" in known["components"]["fake"]


async def test_metrics_count_what_ran(gateway: Any) -> None:
    await gateway.execute(command="true")
    await gateway.execute(command="false")
    plain = (await gateway.client.get("/api/v1/metrics")).json()
    assert (plain["total_requests"], plain["total_executions"], plain["cache_hits"]) == (2, 2, 0)
    detailed = (await gateway.client.get("/api/v1/metrics/detailed")).json()
    assert detailed["summary"]["total_requests"] == 2
    assert detailed["exits"] == {"exited": 2}
    assert set(detailed["runtimes"]) == {"embedded", "docker", "firecracker"}
    text = (await gateway.client.get("/metrics")).text
    assert 'faas_executions_total{status="error",runtime="fake"} 1' in text
    assert "faas_execution_queue_depth 0" in text


async def test_pools_and_images_are_what_is_there(gateway: Any) -> None:
    await gateway.execute(command="true")
    pools = (await gateway.client.get("/api/v1/pools")).json()
    assert [row["image_digest"] for row in pools["pools"]] == ["host"]
    assert (pools["queued"], pools["running"]) == (0, 0)
    images = (await gateway.client.get("/api/v1/images")).json()
    assert [row["reference"] for row in images["images"]] == ["host"]
    assert images["default"] == "host"


async def test_the_docs_page_needs_no_other_origin(gateway: Any) -> None:
    answer = await gateway.client.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert policy.count("'sha256-") == 2
    assert "https://" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


async def test_no_cors_header_is_sent_unless_an_origin_is_named(open_gateway: Any) -> None:
    origin = {"Origin": "https://app.example"}
    closed = await open_gateway()
    answer = await closed.client.get("/health", headers=origin)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    opened = await open_gateway(GatewaySettings(cors_origins=("https://app.example",)))
    answer = await opened.client.get("/health", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_the_isolation_names_of_the_wire_are_those_of_the_ladder() -> None:
    from typing import get_args

    from faas.gateway.wire import IsolationName

    assert sorted(get_args(IsolationName)) == sorted(ISOLATION_LADDER)
