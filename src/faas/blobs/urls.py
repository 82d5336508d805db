"""`FAAS_OBJECT_STORE_URL` → a store.

`s3://bucket[/prefix][?region=…&endpoint=…]` with the AWS variables; `memory://` for trials;
nothing: the local folder alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from faas.blobs.fake import FakeBlobStore
from faas.blobs.local import LocalBlobStore
from faas.blobs.protocol import BlobStore
from faas.blobs.refs import LocalRefStore, ObjectRefStore, RefStore, TieredRefStore
from faas.blobs.tiered import TieredBlobStore
from faas.errors import InvalidConfigError

_HINT = "for example s3://my-bucket/faas?region=eu-central-1&endpoint=http://127.0.0.1:9000"


def open_store(
    root: Path,
    *,
    url: str | None = None,
    aws: Mapping[str, str] | None = None,
    ack_far: bool = True,
) -> BlobStore:
    """Open the local store, with the one `url` names behind it.

    Raises:
        InvalidConfigError: the URL names no store we know.
    """
    near = LocalBlobStore(root)
    if not url:
        return near
    return TieredBlobStore(near, _open_far(url, aws or {}), ack_far=ack_far)


def open_refs(
    root: Path, *, url: str | None = None, aws: Mapping[str, str] | None = None
) -> RefStore:
    """Open the records that belong to the same store.

    Raises:
        InvalidConfigError: the URL names no store we know.
    """
    near = LocalRefStore(root)
    if not url or url.startswith("memory:"):
        return near
    store, _, prefix = _open_s3(url, aws or {})
    return TieredRefStore(near, ObjectRefStore(store, prefix=prefix))


def open_shared(url: str, *, aws: Mapping[str, str] | None = None) -> tuple[str, BlobStore]:
    """Open a store that others read and write too, with no local copy before it, and its name: the
    URL without its options. Also `file:///folder`, for all on one machine.

    Raises:
        InvalidConfigError: the URL names no store we know.
    """
    name = url.partition("?")[0].rstrip("/")
    if url.startswith("file:///"):
        return name, LocalBlobStore(Path(urlsplit(url).path))
    return name, _open_far(url, aws or {})


def _open_far(url: str, aws: Mapping[str, str]) -> BlobStore:
    if url.startswith("memory:"):
        return FakeBlobStore()
    from faas.blobs.objects import ObjectBlobStore  # noqa: PLC0415  needs the extra `s3`

    store, name, prefix = _open_s3(url, aws)
    return ObjectBlobStore(store, name=name, prefix=prefix)


def _open_s3(url: str, aws: Mapping[str, str]) -> tuple[Any, str, str]:
    """Make the client for `url`: the store, its name for people, the prefix inside the bucket."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidConfigError(f"FAAS_OBJECT_STORE_URL {url!r} names no known store", hint=_HINT)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if unknown := set(query) - {"region", "endpoint"}:
        raise InvalidConfigError(
            f"FAAS_OBJECT_STORE_URL has unknown options: {', '.join(sorted(unknown))}", hint=_HINT
        )
    try:
        from obstore.store import S3Store  # noqa: PLC0415  19 MB, and most boxes have no bucket
    except ImportError as cause:
        raise InvalidConfigError(
            "FAAS_OBJECT_STORE_URL needs the package obstore",
            hint="pip install 'faas-platform[s3]'",
        ) from cause

    endpoint = query.get("endpoint") or aws.get("AWS_ENDPOINT") or aws.get("AWS_ENDPOINT_URL")
    options: dict[str, str] = {"region": query.get("region") or aws.get("AWS_REGION", "us-east-1")}
    for variable, option in {
        "AWS_ACCESS_KEY_ID": "access_key_id",
        "AWS_SECRET_ACCESS_KEY": "secret_access_key",
        "AWS_SESSION_TOKEN": "session_token",
    }.items():
        if variable in aws:
            options[option] = aws[variable]
    if endpoint:
        options["endpoint"] = endpoint
    store = S3Store(
        parts.netloc,
        config=options,  # pyright: ignore[reportArgumentType]  the keys are obstore's own
        client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
        retry_config={"max_retries": 3},
    )
    return store, f"s3://{parts.netloc}", parts.path.strip("/")
