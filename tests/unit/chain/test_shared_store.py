"""The store that callers and operators share: its name is what references say."""

import pytest

from faas.blobs import open_shared
from faas.errors import InvalidConfigError


async def test_folder_is_a_store_by_its_url(tmp_path):
    name, store = open_shared(f"file://{tmp_path}/jobs/")
    assert name == f"file://{tmp_path}/jobs"
    assert await store.get(await store.put(b"data")) == b"data"


def test_options_of_a_bucket_are_no_part_of_its_name():
    name, _ = open_shared("s3://bucket/jobs?region=eu-central-1&endpoint=http://127.0.0.1:9000")
    assert name == "s3://bucket/jobs"


@pytest.mark.parametrize("url", ["http://elsewhere/", "/folder", "s3://"])
def test_url_that_is_no_store_is_refused(url):
    with pytest.raises(InvalidConfigError):
        open_shared(url)
