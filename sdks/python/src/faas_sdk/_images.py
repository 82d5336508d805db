"""The calls about images: list, pull, build, import, remove. The sync twin is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from faas_sdk._answers import json_of, listed, object_of, present
from faas_sdk._archive import Archive, read_archive
from faas_sdk._connection import in_thread
from faas_sdk._errors import (
    GatewayUnreachableError,
    ProtocolError,
    ResourceExhaustedError,
    error_from_problem,
)
from faas_sdk._models import ClientConfig, Runtime
from faas_sdk._sse import SseMessage, SseParser
from faas_sdk._stream import IDLE_SECONDS
from faas_sdk._transport import Call, Transport

IMPORT_SECONDS = 600.0
"""How long unpacking and hashing a large image may take without a word from the gateway."""

_TAR = {"Content-Type": "application/x-tar"}
_EVENTS = {"Accept": "text/event-stream"}


class ImageCalls:
    """What a client can do with images: to pull takes the scope `execute`, to change `admin`."""

    config: ClientConfig
    _transport: Transport

    async def list_images(self) -> List[Dict[str, Any]]:
        """List the images that can be run: `reference`, `digest`, `size_bytes`, `source`, …"""
        call = Call("GET", "/api/v1/images", self.config.timeout, is_repeatable=True)
        return listed(json_of(await self._transport.send(call)), "images")

    async def pull_image(
        self,
        image: str,
        *,
        runtime: Union[Runtime, str, None] = None,
        pull_policy: Optional[str] = None,
        registry_auth: Optional[Mapping[str, str]] = None,
        timeout_ms: Optional[int] = None,
        on_progress: Optional[Callable[[Dict[str, Any]], Any]] = None,
    ) -> Dict[str, Any]:
        """Fetch an image from its registry, and return its name and digest when it is here.

        `runtime="docker"` has the Docker Engine fetch and keep it. `registry_auth` has `username`
        and `password`; the gateway keeps neither. `on_progress` is called with each step: `status`,
        `layer`, `current_bytes`, `total_bytes`.
        """
        body = {
            "image": image,
            "runtime": _word(runtime),
            "pull_policy": pull_policy,
            "registry_auth": None if registry_auth is None else dict(registry_auth),
            "timeout_ms": timeout_ms,
        }
        call = Call(
            "POST",
            "/api/v1/images/pull",
            read_seconds=IDLE_SECONDS,
            is_repeatable=True,
            body=present(body),
            headers=_EVENTS,
        )

        def tell(facts: Dict[str, Any]) -> None:
            if on_progress is not None:
                on_progress(facts)

        return await self._until_done(call, "progress", tell)

    async def build_image(
        self,
        name: str,
        context: Archive,
        *,
        dockerfile: Optional[str] = None,
        target: Optional[str] = None,
        build_args: Optional[Mapping[str, str]] = None,
        network: Optional[str] = None,
        no_cache: bool = False,
        on_output: Optional[Callable[[str], Any]] = None,
    ) -> Dict[str, Any]:
        """Have the Docker Engine build an image from a Dockerfile; return its name and digest.

        The context is a directory or a tar. `network="none"` takes the network from RUN, and
        `on_output` is called with what the build says.

        Raises:
            InvalidImageError: the Dockerfile or its context is at fault.
            UnsupportedError: the gateway has no Docker Engine.
            ValueError: the directory has a .dockerignore, which only `faas images build` reads.
        """
        query = {
            "name": name,
            "dockerfile": dockerfile,
            "target": target,
            "network": network,
            "args": None if build_args is None else json.dumps(dict(build_args)),
            "no_cache": "true" if no_cache else None,
        }
        call = Call(
            "POST",
            "/api/v1/images/build",
            read_seconds=IDLE_SECONDS,
            content=await in_thread(_context, context),
            query=present(query),
            headers={**_TAR, **_EVENTS},
        )

        def tell(facts: Dict[str, Any]) -> None:
            if on_output is not None:
                on_output(str(facts.get("text", "")))

        return await self._until_done(call, "output", tell)

    async def import_image(self, name: str, archive: Archive) -> Dict[str, Any]:
        """Give the gateway an image: a tar of a file system or OCI layout, or of `docker save`.

        It may be compressed.

        Raises:
            InvalidImageError: it is none of these.
            ValueError: it is a directory: packed here, its owners would be lost.
        """
        call = Call(
            "POST",
            "/api/v1/images/import",
            read_seconds=max(self.config.timeout, IMPORT_SECONDS),
            content=await in_thread(_tar, archive),
            query={"name": name},
            headers=_TAR,
        )
        return object_of(json_of(await self._transport.send(call)))

    async def remove_image(self, name: str, *, runtime: Union[Runtime, str, None] = None) -> None:
        """Forget a name, and the image with its last; with `runtime`, where that keeps it.

        Raises:
            ImageNotFoundError: nobody has it.
            WrongStateError: it is in use.
        """
        call = Call(
            "DELETE",
            "/api/v1/images",
            self.config.timeout,
            query=present({"name": name, "runtime": _word(runtime)}),
        )
        await self._transport.send(call)

    async def _until_done(
        self, call: Call, event: str, tell: Callable[[Dict[str, Any]], None]
    ) -> Dict[str, Any]:
        """Read events to the last one, and return that; long work is never silent this way."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._read(call, event, tell)
            except (GatewayUnreachableError, ResourceExhaustedError) as error:
                if not call.is_repeatable:
                    raise
                await self._transport.pause(error, attempt)

    async def _read(
        self, call: Call, event: str, tell: Callable[[Dict[str, Any]], None]
    ) -> Dict[str, Any]:
        parser = SseParser()
        async with self._transport.open(call) as response:
            async for chunk in response.aiter_bytes():
                for message in parser.feed(chunk):
                    facts = _facts(message)
                    if message.event == "done":
                        return facts
                    if message.event == "error":
                        raise error_from_problem(int(facts.get("status") or 500), facts)
                    if message.event == event:
                        tell(facts)
        raise GatewayUnreachableError("the gateway broke off before the image was there")


def _facts(message: SseMessage) -> Dict[str, Any]:
    try:
        return object_of(json.loads(message.data))
    except ValueError as error:
        raise ProtocolError("an event of the stream is not JSON") from error


def _word(runtime: Union[Runtime, str, None]) -> Optional[str]:
    return runtime.value if isinstance(runtime, Runtime) else runtime


def _context(context: Archive) -> bytes:
    if not isinstance(context, bytes) and (Path(context) / ".dockerignore").exists():
        raise ValueError("this directory has a .dockerignore: pack it as a tar, without those")
    return read_archive(context)


def _tar(archive: Archive) -> bytes:
    if isinstance(archive, bytes):
        return archive
    if Path(archive).is_dir():
        raise ValueError("an image is imported from a tar, which keeps the owners of its files")
    return Path(archive).read_bytes()
