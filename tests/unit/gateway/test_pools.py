"""Pre-warming and the pools at the door."""

from typing import Any


async def prewarm(gateway: Any, **body: Any) -> Any:
    return await gateway.client.post("/api/v1/prewarm", json=body)


async def test_prewarming_answers_with_what_is_really_ready(gateway: Any) -> None:
    answer = await prewarm(gateway, image="python", count=3)
    body = answer.json()
    assert answer.status_code == 200, body
    assert (body["ready"], body["requested"], body["complete"]) == (3, 3, True)
    assert (body["runtime"], body["image_digest"]) == ("fake", "python")
    assert body["runtime_reason"] == "auto: the only one here"
    assert body["expires_at"].endswith("Z")
    rows = (await gateway.client.get("/api/v1/pools")).json()["pools"]
    row = next(row for row in rows if row["image"] == "python")
    assert (row["ready"], row["target"], row["kept"], row["busy"]) == (3, 3, 3, 0)
    assert row["why"] == "3 pre-warmed"


async def test_an_execution_of_a_pre_warmed_image_finds_it_warm(gateway: Any) -> None:
    await prewarm(gateway, image="python", count=1)
    body = (await gateway.execute(command="echo hi", image="python")).json()
    assert body["stdout"] == "hi\n"
    assert gateway.platform.executor.stats().from_pool == 1


async def test_when_it_takes_longer_the_answer_is_202_with_the_counts(gateway: Any) -> None:
    gateway.platform.host.create_seconds = 30.0
    answer = await prewarm(gateway, image="slow", count=2, timeout_ms=0)
    body = answer.json()
    assert answer.status_code == 202, body
    assert (body["ready"], body["making"], body["complete"]) == (0, 2, False)


async def test_count_zero_ends_it(gateway: Any) -> None:
    await prewarm(gateway, image="python", count=2)
    answer = await prewarm(gateway, image="python", count=0)
    assert answer.status_code == 200
    assert answer.json()["requested"] == 0
    rows = (await gateway.client.get("/api/v1/pools")).json()["pools"]
    assert [row["kept"] for row in rows if row["image"] == "python"] == [0]


async def test_bad_requests_are_told_every_fault(gateway: Any) -> None:
    answer = await prewarm(gateway, image="", count=-1, runtim="docker", keep_seconds=0)
    assert answer.status_code == 400
    paths = {problem["path"] for problem in answer.json()["details"]["problems"]}
    assert paths == {"$.image", "$.count", "$.runtim", "$.keep_seconds"}
    missing = await prewarm(gateway, runtime="docker")
    paths = {problem["path"] for problem in missing.json()["details"]["problems"]}
    assert paths == {"$.image", "$.count"}


async def test_more_than_there_may_be_is_refused(gateway: Any) -> None:
    answer = await prewarm(gateway, image="python", count=1_000_000)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_runtime_or_isolation_that_is_not_here_is_refused(gateway: Any) -> None:
    answer = await prewarm(gateway, image="python", count=1, runtime="docker")
    assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
    answer = await prewarm(gateway, image="python", count=1, isolation="gvisor")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (501, "unsupported")
    assert body["details"]["supported"] == {"fake": ["none"]}


async def test_an_answer_says_which_runtime_and_why(gateway: Any) -> None:
    body = (await gateway.execute(command="true")).json()
    assert body["runtime_used"] == "fake"
    assert body["runtime_reason"] == "auto: the only one here"
    refused = await gateway.execute(command="true", isolation="gvisor")
    assert refused.status_code == 501
    assert refused.json()["details"]["ladder"][0] == "none"
