"""The images of a `FakeGateway`: nothing is pulled or built, but what is there is remembered."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any, Dict, List, Mapping, Optional, Tuple

import httpx

from faas_sdk._errors import (
    ImageNotFoundError,
    InvalidArgumentError,
    InvalidImageError,
    NotFoundError,
    UnsupportedMediaTypeError,
)

_HOST = "host"
_KEEPERS = ("docker", "embedded")
_BLOCK = 512
"""Of a tar: no tar is shorter."""


class FakeImages:
    """Names and digests; the image `host` is always there."""

    def __init__(self) -> None:
        self._found: Dict[str, Dict[str, Any]] = {}

    def answer(self, request: httpx.Request, verb: List[str], body: Any) -> httpx.Response:
        """Answer a request about images."""
        asked: Tuple[str, ...] = (request.method, *verb)
        if asked == ("GET",):
            return httpx.Response(200, json=self._list())
        if asked == ("DELETE",):
            self._remove(request.url.params)
            return httpx.Response(204)
        if asked == ("POST", "pull"):
            wanted: Dict[str, Any] = body if isinstance(body, dict) else {}
            ready = self._pull(wanted)
            return _ready(request, [("progress", {"status": "Pulling", "layer": None})], ready)
        if asked == ("POST", "build"):
            return self._build(request)
        if asked == ("POST", "import"):
            return httpx.Response(200, json=self._import(request))
        raise NotFoundError("no such route about images")

    def _list(self) -> Dict[str, Any]:
        host = {"reference": _HOST, "digest": _HOST, "source": "host", "runtime": None}
        return {"images": [host, *self._found.values()], "aliases": {}, "default": _HOST}

    def _pull(self, body: Mapping[str, Any]) -> Dict[str, Any]:
        name = body.get("image")
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError("$.image: is missing")
        runtime = body.get("runtime")
        if runtime not in (None, "auto", *_KEEPERS):
            raise InvalidArgumentError(f"$.runtime: known are auto, {', '.join(_KEEPERS)}")
        if name == _HOST:
            return {"reference": name, "digest": name, "runtime": None}
        known = self._found.get(name)
        if known is None and body.get("pull_policy") == "never":
            raise ImageNotFoundError(f"there is no image {name!r} here")
        keeper = "docker" if runtime == "docker" else None
        return self._keep(name, name.encode(), source="registry", runtime=keeper)

    def _build(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params
        name, entries = _name(query), _entries(request)
        dockerfile = query.get("dockerfile", "Dockerfile")
        if dockerfile not in entries:
            raise InvalidImageError(f"{name} could not be built: it has no {dockerfile}")
        steps = [line for line in entries[dockerfile].decode().splitlines() if line.strip()]
        words = [
            ("output", {"text": f"Step {number}/{len(steps)} : {line}\n"})
            for number, line in enumerate(steps, 1)
        ]
        made = self._keep(name, request.content, source="docker", runtime="docker")
        return _ready(request, words, made)

    def _import(self, request: httpx.Request) -> Dict[str, Any]:
        name = _name(request.url.params)
        _entries(request)
        self._keep(name, request.content, source="tar", runtime=None)
        return self._found[name]

    def _keep(
        self, name: str, content: bytes, *, source: str, runtime: Optional[str]
    ) -> Dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._found[name] = {
            "reference": name,
            "digest": digest,
            "size_bytes": len(content),
            "source": source,
            "runtime": runtime,
        }
        return {"reference": name, "digest": digest, "runtime": runtime}

    def _remove(self, query: Mapping[str, str]) -> None:
        name, runtime = _name(query), query.get("runtime")
        if runtime not in (None, *_KEEPERS):
            raise InvalidArgumentError(f"query: runtime must be one of {', '.join(_KEEPERS)}")
        found = self._found.get(name)
        where = None if found is None else found["runtime"] or "embedded"
        if where is None or runtime not in (None, where):
            raise ImageNotFoundError(f"there is no image {name!r} here")
        del self._found[name]


def _name(query: Mapping[str, str]) -> str:
    name = query.get("name", "")
    if not name:
        raise InvalidArgumentError("query: name is missing")
    return name


def _entries(request: httpx.Request) -> Dict[str, bytes]:
    """Read a tar: its files by name."""
    if request.headers.get("Content-Type") != "application/x-tar":
        raise UnsupportedMediaTypeError("the body is not a tar")
    if len(request.content) < _BLOCK:
        raise InvalidImageError("the body is no tar")
    try:
        with tarfile.open(fileobj=io.BytesIO(request.content)) as tar:
            files = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
            return {name.removeprefix("./"): f.read() for name, f in files.items() if f is not None}
    except tarfile.TarError as error:
        raise InvalidImageError("the body is no tar") from error


def _ready(
    request: httpx.Request, events: List[Tuple[str, Dict[str, Any]]], made: Dict[str, Any]
) -> httpx.Response:
    """Tell what happened, then the image; or only that, to whoever takes no events."""
    if request.headers.get("Accept") != "text/event-stream":
        return httpx.Response(200, json=made)
    told = [*events, ("done", made)]
    text = "".join(f"event: {name}\ndata: {json.dumps(facts)}\n\n" for name, facts in told)
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)
