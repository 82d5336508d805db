"""`FaaSClient`: the platform from an async program. The sync twin is generated from this file."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
import uuid
from dataclasses import replace
from enum import Enum
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import httpx

from faas_sdk._answers import (
    json_of,
    listed,
    merged,
    object_of,
    present,
    segment,
)
from faas_sdk._cache import ResultCache
from faas_sdk._cache import cache_key as name_request
from faas_sdk._connection import GIVEN_UP, in_thread
from faas_sdk._errors import DeadlineExceededError, FaaSError
from faas_sdk._events import Listener, Listeners
from faas_sdk._files import FilePath, body_of, save
from faas_sdk._images import ImageCalls
from faas_sdk._languages import CodeCommand, bash, javascript, python, typescript
from faas_sdk._metrics import ClientMetrics
from faas_sdk._models import (
    DEFAULT_BASE_URL,
    ClientConfig,
    Execution,
    ExecutionPage,
    ExecutionResult,
    Runtime,
    StreamEvent,
    execution_from_answer,
    result_from_answer,
)
from faas_sdk._request import (
    Command,
    Environment,
    ExecuteOptions,
    MoreOptions,
    build_body,
    read_seconds,
    reads_disk,
)
from faas_sdk._stream import ExecutionStream, follow, watch
from faas_sdk._transport import Call, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

LONG_POLL_SECONDS = 20.0
PREWARM_MS = 60_000
"""How long a gateway waits for sandboxes when not told."""
"""How long the gateway may hold one question of `wait`; proxies allow a silent request more."""

POLL_SECONDS = 0.02
"""Between these questions, should one be answered at once."""

ABANDON_SECONDS = 5.0
"""How long a caller that gave up is held to end its command: one round trip, with room."""


class FaaSClient(ImageCalls):
    """Talks to one gateway. Cheap to make, safe to share, usable with or without `async with`.

    Every option left out is the gateway's default. Every `execute` carries an idempotency key of
    its own, so that repeating it after a broken connection never runs the command twice.
    """

    def __init__(
        self,
        base_url: Optional[str] = None,
        config: Optional[ClientConfig] = None,
        *,
        runtime: Union[Runtime, str, None] = None,
        api_key: Optional[str] = None,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            base_url: Where the gateway listens. Default: `config.base_url`, else the environment's
                FAAS_GATEWAY_URL, else http://localhost:8080.
            config: Everything that can be set; `runtime` and `api_key` win over it.
            runtime: What runs the sandboxes when a call does not say.
            api_key: Default: the environment's FAAS_API_KEY.
            transport: Instead of the network, for tests: see `faas_sdk.testing`.
        """
        settled = config or ClientConfig(
            base_url=os.environ.get("FAAS_GATEWAY_URL") or DEFAULT_BASE_URL
        )
        self.config = replace(
            settled,
            base_url=base_url or settled.base_url,
            runtime=settled.runtime if runtime is None else runtime,
            api_key=api_key or settled.api_key or os.environ.get("FAAS_API_KEY"),
        )
        self.metrics = ClientMetrics()
        self._listeners = Listeners()
        self._cache = ResultCache(self.config.cache_entries_max)
        self._transport = Transport(self.config, transport=transport, on_retry=self._retried)

    async def __aenter__(self) -> FaaSClient:
        return self

    async def __aexit__(
        self,
        _type: Optional[Type[BaseException]],
        _value: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The client can still be used: it opens new ones."""
        await self._transport.aclose()

    def use_docker(self) -> FaaSClient:
        """Run in Docker from now on."""
        return self.use_runtime(Runtime.DOCKER)

    def use_firecracker(self) -> FaaSClient:
        """Run in microVMs from now on."""
        return self.use_runtime(Runtime.FIRECRACKER)

    def use_runtime(self, runtime: Union[Runtime, str]) -> FaaSClient:
        """Run there from now on."""
        self.config = replace(self.config, runtime=runtime)
        return self

    def set_caching(self, enabled: bool) -> FaaSClient:  # noqa: FBT001  the name other SDKs have
        """Answer repeated cacheable requests from memory, or stop and forget."""
        self.config = replace(self.config, cache_enabled=enabled)
        if not enabled:
            self._cache.clear()
        return self

    def on(self, event: str, listener: Listener) -> FaaSClient:
        """Call `listener(facts)` at `execution`, `retry`, `error`, `cache-hit`, `cache-miss`."""
        self._listeners.add(event, listener)
        return self

    def off(self, event: str, listener: Listener) -> FaaSClient:
        """Stop calling it."""
        self._listeners.remove(event, listener)
        return self

    async def execute(
        self,
        command: Command,
        image: Optional[str] = None,
        runtime: Union[Runtime, str, None] = None,
        env_vars: Optional[Environment] = None,
        working_dir: Optional[str] = None,
        timeout_ms: Optional[int] = None,
        cache_key: Optional[str] = None,
        **options: Unpack[MoreOptions],
    ) -> ExecutionResult:
        """Run a command to its end: a string goes through `sh -c`, a list is run as it is.

        A command that fails is a result like any other (`ok`, `exit_code`, `raise_for_exit()`).

        Raises:
            ExecutionTimeoutError: the command ran out of its time; the error holds the result.
            FaaSError: the platform could not run it.
        """
        positional = {
            "image": image,
            "runtime": runtime,
            "env_vars": env_vars,
            "working_dir": working_dir,
            "timeout_ms": timeout_ms,
            "cache_key": cache_key,
        }
        return await self._execute("/api/v1/execute", command, merged(positional, options))

    async def execute_advanced(
        self, command: Command, **options: Unpack[ExecuteOptions]
    ) -> ExecutionResult:
        """Do the same by the gateway's other name for it."""
        return await self._execute("/api/v1/execute/advanced", command, options)

    async def run_python(self, code: str, **options: Unpack[ExecuteOptions]) -> ExecutionResult:
        """Run Python code. Any text will do: nothing is quoted, nothing expanded."""
        return await self._run_code(python(code), options)

    async def run_javascript(self, code: str, **options: Unpack[ExecuteOptions]) -> ExecutionResult:
        """Run JavaScript with Node."""
        return await self._run_code(javascript(code), options)

    async def run_typescript(self, code: str, **options: Unpack[ExecuteOptions]) -> ExecutionResult:
        """Run TypeScript with what the image has: node 22.6 or later, tsx, ts-node, bun or deno."""
        return await self._run_code(typescript(code), options)

    async def run_bash(self, script: str, **options: Unpack[ExecuteOptions]) -> ExecutionResult:
        """Run a shell script: with bash where the image has it, else sh."""
        return await self._run_code(bash(script), options)

    async def submit(self, command: Command, **options: Unpack[ExecuteOptions]) -> Execution:
        """Start a command and return at once; `wait`, `stream_logs` and `cancel` take its id."""
        body = await self._body(command, options)
        answer = await self._post_execution("/api/v1/execute", {**body, "wait": False}, options)
        return execution_from_answer(object_of(answer))

    def stream(self, command: Command, **options: Unpack[ExecuteOptions]) -> ExecutionStream:
        """Run a command and iterate over its output as it is written."""

        async def start() -> str:
            return (await self.submit(command, **options)).id

        return ExecutionStream(self, self._transport, start)

    async def get_execution(self, execution_id: str) -> Execution:
        """Return one execution as it is now.

        Raises:
            ExecutionNotFoundError: there is none with that id.
        """
        answer = await self._get(f"/api/v1/executions/{segment(execution_id)}")
        return execution_from_answer(object_of(answer))

    async def list_executions(
        self, *, limit: int = 50, cursor: Optional[str] = None, state: Optional[str] = None
    ) -> ExecutionPage:
        """List executions, newest first, without output. Go on with `cursor=page.next_cursor`."""
        query = {"limit": limit, "cursor": cursor, "state": state}
        answer = object_of(await self._get("/api/v1/executions", query=query))
        found = listed(answer, "executions")
        return ExecutionPage(
            executions=[execution_from_answer(one) for one in found],
            next_cursor=answer.get("next_cursor"),
        )

    async def wait(
        self, execution_id: str, *, timeout_seconds: Optional[float] = None
    ) -> ExecutionResult:
        """Wait until an execution has ended and return its result, also when time ran out for it.

        Raises:
            TimeoutError: it had not ended after `timeout_seconds`.
            FaaSError: the platform failed to run it.
        """
        gives_up_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            seconds = min(self.config.timeout / 2, LONG_POLL_SECONDS)
            if gives_up_at is not None:
                seconds = min(seconds, max(0.0, gives_up_at - time.monotonic()))
            path = f"/api/v1/executions/{segment(execution_id)}"
            answer = await self._get(path, query={"wait_ms": int(seconds * 1000)})
            execution = execution_from_answer(object_of(answer))
            if execution.result is not None:
                return execution.result
            if execution.error is not None:
                raise execution.error
            if gives_up_at is not None and time.monotonic() >= gives_up_at:
                raise TimeoutError(f"{execution_id} has not ended after {timeout_seconds:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def stream_logs(self, execution_id: str) -> AsyncIterator[StreamEvent]:
        """Yield all output of an execution from its first byte, live or kept, then its end."""
        events: Any = follow(self._transport, segment(execution_id))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def get_logs(
        self,
        execution_id: str,
        *,
        stream: str = "stdout",
        offset: int = 0,
        limit: Optional[int] = None,
    ) -> bytes:
        """Return kept output, exact, from a byte offset on; all there is unless limited."""
        path = f"/api/v1/executions/{segment(execution_id)}/logs"
        data = b""
        while limit is None or len(data) < limit:
            left = None if limit is None else limit - len(data)
            query = {"stream": stream, "offset": offset + len(data), "limit": left}
            call = Call(
                "GET",
                path,
                read_seconds=self.config.timeout,
                is_repeatable=True,
                query=present(query),
                headers={"Accept": "application/octet-stream"},
            )
            response = await self._transport.send(call)
            data += response.content
            if not response.content or response.headers.get("X-Ended") == "true":
                break
        return data

    async def cancel(self, execution_id: str) -> Execution:
        """End an execution now. Harmless when it has ended."""
        path = f"/api/v1/executions/{segment(execution_id)}/cancel"
        answer = await self._post(path, None, is_repeatable=True)
        return execution_from_answer(object_of(answer))

    async def write_stdin(
        self,
        execution_id: str,
        data: Union[str, bytes],
        *,
        offset: Optional[int] = None,
        is_last: bool = False,
    ) -> int:
        """Send input to a command started with `stdin_open=True`; return how far it has been given.

        With `offset` (bytes sent before) the gateway knows what comes twice, so that a broken
        connection is repeated; without, it is not.
        """
        encoded = base64.b64encode(data.encode() if isinstance(data, str) else data)
        body = {"data_base64": encoded.decode("ascii"), "offset": offset, "last": is_last}
        path = f"/api/v1/executions/{segment(execution_id)}/stdin"
        answer = await self._post(path, present(body), is_repeatable=offset is not None)
        return int(object_of(answer).get("offset", 0))

    async def fork_execution(
        self, parent_id: str, command: Command, **options: Unpack[ExecuteOptions]
    ) -> ExecutionResult:
        """Run a command in a copy of what an earlier execution left behind."""
        branched: ExecuteOptions = {**options, "mode": "branched", "branch_from": parent_id}
        return await self._execute("/api/v1/execute", command, branched)

    async def fork(
        self, parent_id: str, commands: Sequence[Command], **options: Unpack[ExecuteOptions]
    ) -> List[ExecutionResult]:
        """Run many commands side by side, each in its own copy of what a parent left behind.

        The parent is an execution, a snapshot or an instance; results come in the commands' order.
        """
        children = [await self._body(command, options) for command in commands]
        body = {"branch_from": parent_id, "children": children}
        answers = listed(await self._post_children("/api/v1/fork", body), "children")
        return [result_from_answer(answer) for answer in answers]

    async def race(
        self,
        parent_id: str,
        commands: Sequence[Command],
        *,
        check: Optional[str] = None,
        **options: Unpack[ExecuteOptions],
    ) -> Dict[str, Any]:
        """Run commands side by side until the first passes, and end the others.

        Passing is exit code 0, and with `check`, a shell command run in a copy of the child's
        files, also its exit code 0. The answer has `winner`, `snapshot_id` and `children`.
        """
        children = [await self._body(command, options) for command in commands]
        body = {"branch_from": parent_id, "children": children, "check": check}
        return object_of(await self._post_children("/api/v1/branches/race", present(body)))

    async def merge_branches(
        self, branches: Sequence[str], *, strategy: str = "union", name: Optional[str] = None
    ) -> Dict[str, Any]:
        """Make one snapshot of several branches; the answer lists every conflict.

        Strategies are `union`, `intersection`, `latest`, `ours` and `theirs`.
        """
        body = {"branches": list(branches), "strategy": strategy, "name": name}
        return object_of(await self._post("/api/v1/branches/merge", present(body)))

    async def create_snapshot(
        self,
        container_id: str,
        name: Optional[str] = None,
        description: Optional[str] = None,
        *,
        tags: Sequence[str] = (),
        memory: bool = False,
        keep_seconds: Optional[float] = None,
    ) -> Dict[str, Any]:
        """Keep the state of an execution or instance under a name; its processes with `memory`."""
        body = {
            "container_id": container_id, "name": name, "description": description,
            "tags": list(tags), "memory": memory, "keep_seconds": keep_seconds,
        }  # fmt: skip
        return object_of(await self._post("/api/v1/snapshots", present(body)))

    async def checkpoint_execution(
        self,
        execution_id: str,
        *,
        memory: bool = True,
        stop: bool = False,
        name: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Keep a running execution as a snapshot, its memory and processes too.

        It must have been started with `memory=True`. With `stop` it ends here, with the reason
        `checkpointed`, and `go_on` takes it up.
        """
        body = {"memory": memory, "stop": stop, "name": name}
        path = f"/api/v1/executions/{segment(execution_id)}/checkpoint"
        return object_of(await self._post(path, present(body)))

    async def go_on(self, reference: str, **options: Unpack[ExecuteOptions]) -> ExecutionResult:
        """Let processes go on from a memory checkpoint, by its snapshot's or execution's id."""
        asked: ExecuteOptions = {"mode": "checkpointed", **options}
        asked = {**asked, "snapshot_id": reference, "memory": True}
        return await self._execute("/api/v1/execute", None, asked)

    async def list_snapshots(self) -> List[Dict[str, Any]]:
        """List the snapshots, newest first."""
        return await self._pages("/api/v1/snapshots", "snapshots")

    async def tag_snapshot(
        self,
        snapshot_id: str,
        *,
        name: Optional[str] = None,
        tags: Optional[Sequence[str]] = None,
        keep_seconds: Optional[float] = None,
    ) -> Dict[str, Any]:
        """Give a snapshot a name, other tags, or a time to be kept; what is not given stays."""
        body = {
            "name": name, "tags": None if tags is None else list(tags),
            "keep_seconds": keep_seconds,
        }  # fmt: skip
        path = f"/api/v1/snapshots/{segment(snapshot_id)}/tags"
        return object_of(await self._post(path, present(body), is_repeatable=True))

    async def verify_snapshot(self, snapshot_id: str) -> None:
        """Have every byte of a snapshot read and checked.

        Raises:
            DataLossError: something is damaged or gone.
        """
        await self._post(f"/api/v1/snapshots/{segment(snapshot_id)}/verify", None)

    async def collect_garbage(self) -> int:
        """Delete bytes that no snapshot needs; return how many blobs went."""
        return int(object_of(await self._post("/api/v1/snapshots/gc", None)).get("deleted", 0))

    async def restore_snapshot(self, snapshot_id: str) -> Dict[str, Any]:
        """Start an instance from a snapshot."""
        return object_of(
            await self._post(f"/api/v1/snapshots/{segment(snapshot_id)}/restore", None)
        )

    async def get_snapshot(self, snapshot_id: str) -> Dict[str, Any]:
        """Return one snapshot, by its id or the id of the execution it was taken of."""
        return object_of(await self._get(f"/api/v1/snapshots/{segment(snapshot_id)}"))

    async def diff_snapshots(self, before: str, after: str) -> List[Dict[str, Any]]:
        """List the paths that differ between the files of two snapshots."""
        path = f"/api/v1/snapshots/{segment(before)}/diff/{segment(after)}"
        return listed(await self._get(path), "changes")

    async def export_snapshot(self, snapshot_id: str) -> bytes:
        """Return a snapshot as one portable file; `save_snapshot` needs no memory for it."""
        return (await self._transport.send(self._export(snapshot_id))).content

    async def save_snapshot(self, snapshot_id: str, path: FilePath) -> int:
        """Write a snapshot to a file, whole or not at all; return its length."""
        return await save(self._transport, self._export(snapshot_id), path)

    async def import_snapshot(self, content: bytes) -> Dict[str, Any]:
        """Take in a file that `export_snapshot` gave; the snapshot has a new id."""
        headers = {"Content-Type": "application/octet-stream"}
        return await self._import(Call("POST", "", 0, content=content, headers=headers))

    async def load_snapshot(self, path: FilePath) -> Dict[str, Any]:
        """Take in a file that `save_snapshot` wrote, a piece at a time."""
        return await self._import(body_of(path))

    def _export(self, snapshot_id: str) -> Call:
        path = f"/api/v1/snapshots/{segment(snapshot_id)}/export"
        return Call("GET", path, read_seconds=self.config.timeout, is_repeatable=True)

    async def _import(self, body: Call) -> Dict[str, Any]:
        call = replace(body, path="/api/v1/snapshots/import", read_seconds=self.config.timeout)
        return object_of(json_of(await self._transport.send(call)))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot."""
        await self._delete(f"/api/v1/snapshots/{segment(snapshot_id)}")

    async def create_instance(
        self,
        image: Optional[str] = None,
        name: Optional[str] = None,
        cpu_cores: Optional[float] = None,
        memory_mb: Optional[int] = None,
        **more: Any,
    ) -> Dict[str, Any]:
        """Start a long-lived instance.

        `more` are further fields of the request: `snapshot_id`, `disk_mb`, `env_vars`,
        `working_dir`, `ttl_seconds`, `idle_seconds`, `idle_action`, `lease_seconds`,
        `isolation`.
        """
        body = {"image": image, "name": name, "cpu_cores": cpu_cores, "memory_mb": memory_mb}
        return object_of(await self._post("/api/v1/instances", present({**body, **more})))

    async def list_instances(self) -> List[Dict[str, Any]]:
        """List the instances, newest first."""
        return await self._pages("/api/v1/instances", "instances")

    async def _pages(self, path: str, name: str) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = []
        query: Dict[str, Any] = {}
        while True:
            call = Call(
                "GET", path, read_seconds=self.config.timeout, is_repeatable=True, query=query
            )
            response = await self._transport.send(call)
            page = listed(json_of(response), name)
            found += page
            cursor = response.headers.get("X-Next-Cursor")
            if not page or cursor is None:
                return found
            query = {"cursor": cursor}

    async def resize_instance(
        self,
        instance_id: str,
        *,
        cpu_cores: Optional[float] = None,
        memory_mb: Optional[int] = None,
        pids_max: Optional[int] = None,
    ) -> Dict[str, Any]:
        """Give an instance other limits, while it runs or for its next start."""
        body = {"cpu_cores": cpu_cores, "memory_mb": memory_mb, "pids_max": pids_max}
        path = f"/api/v1/instances/{segment(instance_id)}/resize"
        return object_of(await self._post(path, present(body), is_repeatable=True))

    async def renew_lease(self, instance_id: str, seconds: Optional[float]) -> Dict[str, Any]:
        """Hold an instance for so long from now; None ends its lease, and it stays."""
        path = f"/api/v1/instances/{segment(instance_id)}/lease"
        return object_of(await self._post(path, {"seconds": seconds}, is_repeatable=True))

    async def expose_port(
        self,
        instance_id: str,
        port: int,
        *,
        subdomain: Optional[str] = None,
        token_seconds: Optional[int] = None,
    ) -> Dict[str, Any]:
        """Let a port of an instance be reached.

        The answer has `open_url`, which a browser can open until `expires_at`; `url` and `token`
        apart (send it as `X-Faas-Token`); and `path`, the way for whoever has a key.
        """
        body = {"port": port, "subdomain": subdomain, "token_seconds": token_seconds}
        path = f"/api/v1/instances/{segment(instance_id)}/ports"
        return object_of(await self._post(path, present(body), is_repeatable=True))

    async def list_ports(self, instance_id: str) -> List[Dict[str, Any]]:
        """List the exposed ports of an instance."""
        return listed(await self._get(f"/api/v1/instances/{segment(instance_id)}/ports"), "ports")

    async def close_port(self, instance_id: str, port: int) -> None:
        """Let a port be reached no more: its tokens end, open connections are cut."""
        await self._delete(f"/api/v1/instances/{segment(instance_id)}/ports/{int(port)}")

    async def get_instance(self, instance_id: str) -> Dict[str, Any]:
        """Return one instance."""
        return object_of(await self._get(f"/api/v1/instances/{segment(instance_id)}"))

    async def exec_instance(
        self, instance_id: str, command: Command, **options: Unpack[ExecuteOptions]
    ) -> ExecutionResult:
        """Run a command in an instance."""
        path = f"/api/v1/instances/{segment(instance_id)}/exec"
        return await self._execute(path, command, options)

    async def start_instance(self, instance_id: str) -> Dict[str, Any]:
        """Start a stopped instance from its kept files."""
        path = f"/api/v1/instances/{segment(instance_id)}/start"
        return object_of(await self._post(path, None))

    async def read_file(self, instance_id: str, path: str) -> bytes:
        """Return the whole content of a file in an instance."""
        content = b""
        while True:
            response = await self._file(
                "GET", instance_id, query={"path": path, "offset": len(content)}
            )
            content += response.content
            if response.headers.get("X-Ended") != "false" or not response.content:
                return content

    async def write_file(
        self, instance_id: str, path: str, content: Union[str, bytes], mode: str = "0644"
    ) -> None:
        """Write a file in an instance, making its directories."""
        data = content.encode() if isinstance(content, str) else content
        await self._file("PUT", instance_id, query={"path": path, "mode": mode}, content=data)

    async def remove_file(self, instance_id: str, path: str, *, recursive: bool = False) -> None:
        """Remove a file or directory in an instance."""
        query = {"path": path, "recursive": "true" if recursive else "false"}
        await self._file("DELETE", instance_id, query=query)

    async def list_files(self, instance_id: str, path: str) -> List[Dict[str, Any]]:
        """List a directory of an instance."""
        at = f"/api/v1/instances/{segment(instance_id)}/files/list"
        return listed(await self._get(at, query={"path": path}), "entries")

    async def stat_file(self, instance_id: str, path: str) -> Dict[str, Any]:
        """Look at one file in an instance."""
        at = f"/api/v1/instances/{segment(instance_id)}/files/stat"
        return object_of(await self._get(at, query={"path": path}))

    async def move_file(self, instance_id: str, source: str, target: str) -> None:
        """Give a file or directory in an instance another name."""
        at = f"/api/v1/instances/{segment(instance_id)}/files/move"
        await self._post(at, {"source": source, "target": target})

    async def make_directory(self, instance_id: str, path: str) -> None:
        """Make a directory in an instance, with its parents."""
        at = f"/api/v1/instances/{segment(instance_id)}/files/mkdir"
        await self._post(at, {"path": path}, is_repeatable=True)

    async def upload_archive(self, instance_id: str, path: str, tar: bytes) -> None:
        """Unpack a tar below a directory of an instance."""
        await self._file("PUT", instance_id, query={"path": path}, content=tar, what="archive")

    async def download_archive(self, instance_id: str, path: str) -> bytes:
        """Return a directory of an instance as a tar."""
        return (await self._file("GET", instance_id, query={"path": path}, what="archive")).content

    async def watch_files(self, instance_id: str, path: str) -> AsyncIterator[Dict[str, Any]]:
        """Yield what changes below a directory: `path` and `event` (created, modified, deleted).

        The first one says `{"event": "ready"}`: from then on every change that lasts is told. It
        ends when the instance is deleted.
        """
        at = f"/api/v1/instances/{segment(instance_id)}/files/watch"
        events: Any = watch(self._transport, at, {"path": path})
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def stop_instance(self, instance_id: str) -> None:
        """Stop an instance; its files stay."""
        await self._post(f"/api/v1/instances/{segment(instance_id)}/stop", None)

    async def pause_instance(self, instance_id: str, *, to_disk: bool = False) -> None:
        """Suspend an instance, in memory or (when it was made with `memory`) to disk."""
        where = "?to=disk" if to_disk else ""
        await self._post(f"/api/v1/instances/{segment(instance_id)}/pause{where}", None)

    async def resume_instance(self, instance_id: str) -> None:
        """Let a suspended instance go on."""
        await self._post(f"/api/v1/instances/{segment(instance_id)}/resume", None)

    async def delete_instance(self, instance_id: str) -> None:
        """Destroy an instance and its files."""
        await self._delete(f"/api/v1/instances/{segment(instance_id)}")

    async def prewarm(
        self,
        image: str,
        count: int = 1,
        *,
        runtime: Union[Runtime, str, None] = None,
        isolation: Optional[str] = None,
        network: Optional[str] = None,
        disk_mb: Optional[int] = None,
        keep_seconds: Optional[int] = None,
        timeout_ms: Optional[int] = None,
    ) -> Dict[str, Any]:
        """Have that many sandboxes of an image ready, and return how it stands when they are.

        `complete` of the answer is false when `timeout_ms` ended first; the others are still made.
        """
        body = {
            "image": image,
            "count": count,
            "runtime": None if runtime is None else Runtime(runtime).value,
            "isolation": isolation,
            "network": network,
            "disk_mb": disk_mb,
            "keep_seconds": keep_seconds,
            "timeout_ms": timeout_ms,
        }
        call = Call(
            "POST",
            "/api/v1/prewarm",
            read_seconds=self.config.timeout + (timeout_ms or PREWARM_MS) / 1000,
            is_repeatable=True,
            body={name: value for name, value in body.items() if value is not None},
        )
        return object_of(json_of(await self._transport.send(call)))

    async def pools(self) -> Dict[str, Any]:
        """Return the warm pools by template, with counts and reasons, and the queue."""
        return object_of(await self._get("/api/v1/pools"))

    async def health_check(self) -> Dict[str, Any]:
        """Return what the gateway says of itself, also when it is not well."""
        return object_of(await self._get("/health", accepted=(503,)))

    async def get_metrics(self) -> Dict[str, Any]:
        """Return the gateway's counters."""
        return object_of(await self._get("/api/v1/metrics"))

    def get_client_metrics(self) -> ClientMetrics:
        """Return a copy of this client's counters."""
        return self.metrics.snapshot()

    async def _run_code(self, code: CodeCommand, options: ExecuteOptions) -> ExecutionResult:
        merged: ExecuteOptions = {**options}
        if merged.get("image") is None:
            merged["image"] = code.image
        if code.files:
            merged["files"] = {**(options.get("files") or {}), **code.files}
        return await self._execute("/api/v1/execute", code.argv, merged)

    async def _execute(
        self, path: str, command: Optional[Command], options: ExecuteOptions
    ) -> ExecutionResult:
        started = time.monotonic()
        try:
            body = await self._body(command, options)
            result = self._remembered(body)
            if result is None:
                result = await self._ask(path, body, options)
        except FaaSError as error:
            elapsed_ms = (time.monotonic() - started) * 1000
            self.metrics.count_error(elapsed_ms=elapsed_ms)
            self._listeners.tell("error", error=error, elapsed_ms=elapsed_ms)
            raise
        elapsed_ms = (time.monotonic() - started) * 1000
        self.metrics.count_execution(elapsed_ms=elapsed_ms, cache_hit=result.cache_hit)
        self._listeners.tell(
            "execution", result=result, elapsed_ms=elapsed_ms, cache_hit=result.cache_hit
        )
        return result

    async def _ask(
        self, path: str, body: Mapping[str, Any], options: ExecuteOptions
    ) -> ExecutionResult:
        response = await self._post_execution(path, body, options)
        result = result_from_answer(object_of(response)).raise_for_timeout()
        key = name_request(body)
        if key is not None:
            self._listeners.tell("cache-hit" if result.cache_hit else "cache-miss", key=key)
            if self.config.cache_enabled:
                self._cache.put(key, result)
        return result

    def _remembered(self, body: Mapping[str, Any]) -> Optional[ExecutionResult]:
        key = name_request(body) if self.config.cache_enabled else None
        result = None if key is None else self._cache.get(key)
        if result is not None:
            self._listeners.tell("cache-hit", key=key)
        return result

    async def _body(self, command: Optional[Command], options: ExecuteOptions) -> Dict[str, Any]:
        runtime: Union[str, Enum] = self.config.runtime
        if reads_disk(options):
            return await in_thread(lambda: build_body(command, options, runtime=runtime))
        return build_body(command, options, runtime=runtime)

    async def _post_execution(
        self, path: str, body: Mapping[str, Any], options: ExecuteOptions
    ) -> Any:
        own_key = options.get("idempotency_key")
        is_waiting = body.get("wait") is not False
        slack = self.config.timeout
        call = Call(
            "POST",
            path,
            read_seconds=read_seconds(body, slack_seconds=slack) if is_waiting else slack,
            is_repeatable=True,
            body=body,
            headers={"Idempotency-Key": own_key or uuid.uuid4().hex},
        )
        try:
            return json_of(await self._transport.send(call))
        except (*GIVEN_UP, DeadlineExceededError):
            if is_waiting and own_key is None:
                await self._abandon(call)
            raise

    async def _abandon(self, call: Call) -> None:
        """End what nobody waits for any more. The same key, not waiting, finds it."""
        again = replace(
            call, read_seconds=ABANDON_SECONDS, body={**(call.body or {}), "wait": False}
        )
        with contextlib.suppress(FaaSError):
            answer = object_of(json_of(await self._transport.send(again)))
            await self.cancel(execution_from_answer(answer).id)

    async def _get(
        self,
        path: str,
        *,
        query: Optional[Mapping[str, Any]] = None,
        accepted: Tuple[int, ...] = (),
    ) -> Any:
        call = Call(
            "GET",
            path,
            read_seconds=self.config.timeout,
            is_repeatable=True,
            query=present(query or {}),
            accepted=accepted,
        )
        return json_of(await self._transport.send(call))

    async def _post(
        self, path: str, body: Optional[Mapping[str, Any]], *, is_repeatable: bool = False
    ) -> Any:
        call = Call(
            "POST",
            path,
            read_seconds=self.config.timeout,
            is_repeatable=is_repeatable,
            body=body,
        )
        return json_of(await self._transport.send(call))

    async def _post_children(self, path: str, body: Mapping[str, Any]) -> Any:
        slack = self.config.timeout
        waits = [read_seconds(child, slack_seconds=slack) for child in body["children"]]
        call = Call("POST", path, read_seconds=max(waits, default=slack), body=body)
        return json_of(await self._transport.send(call))

    async def _file(
        self,
        method: str,
        instance_id: str,
        *,
        query: Mapping[str, Any],
        content: Optional[bytes] = None,
        what: str = "files",
    ) -> httpx.Response:
        call = Call(
            method,
            f"/api/v1/instances/{segment(instance_id)}/{what}",
            read_seconds=self.config.timeout,
            is_repeatable=True,
            query=query,
            content=content,
        )
        return await self._transport.send(call)

    async def _delete(self, path: str) -> None:
        call = Call("DELETE", path, read_seconds=self.config.timeout, is_repeatable=True)
        await self._transport.send(call)

    def _retried(self, attempt: int, error: FaaSError, delay_seconds: float) -> None:
        self.metrics.count_retry()
        self._listeners.tell("retry", attempt=attempt, error=error, delay_seconds=delay_seconds)
