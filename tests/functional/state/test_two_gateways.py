"""Two gateways, one bucket on a real S3 server: what one keeps the other restores."""

from collections.abc import Iterator

import pytest
from tests.plugins.live_gateway import live_gateway
from tests.plugins.s3 import AWS, make_bucket, s3_server

from faas_sdk import FaaSClient


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3_server() as endpoint:
        make_bucket(endpoint, "kept")
        yield f"s3://kept/state?endpoint={endpoint}"


async def test_what_one_gateway_keeps_another_restores(bucket: str) -> None:
    settings = {"FAAS_RUNTIMES": "fake", "FAAS_OBJECT_STORE_URL": bucket, **AWS}
    with live_gateway(**settings) as one, live_gateway(**settings) as two:
        async with FaaSClient(one.url) as first, FaaSClient(two.url) as second:
            kept = await first.execute("true", mode="checkpointed", files={"/tmp/a": "travels"})
            assert kept.snapshot_id in [s["id"] for s in await second.list_snapshots()]
            for reference in (kept.snapshot_id, kept.request_id):
                ran = await second.execute("true", mode="checkpointed", snapshot_id=reference)
                assert await second.diff_snapshots(kept.snapshot_id, ran.snapshot_id) == []
