"""`/api/v1/containers/{id}/stream`: follow and steer what runs, over one WebSocket.

`id` is an execution, an instance (or its name) or a sandbox. Every client has its own connection
and its own place in the output, which is read from the spool when the client takes more: a slow
client slows nobody but itself, and one that was cut comes back with the offsets it has
(`resume=EXECUTION:STDOUT-STDERR`, for an execution's own stream also `offset=STDOUT-STDERR`) and
loses and repeats no byte.

The stream of an execution ends after its `exit`; that of an instance when it is stopped or deleted.
A browser's page from elsewhere is refused: cross-origin rules do not cover WebSockets, so the
Origin is checked here.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from faas.errors import (
    FaasError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from faas.events import ExecutionStarted, InstanceChanged, Subscription
from faas.executor.places import Place
from faas.gateway import problems
from faas.gateway.container_commands import Commands
from faas.gateway.container_output import Follower
from faas.gateway.container_wire import (
    Command,
    CustomEvent,
    ExitEvent,
    HeartbeatEvent,
    ProcessEvent,
)
from faas.gateway.door import Door
from faas.gateway.file_watch import FileWatch
from faas.gateway.middleware import trace_id_of
from faas.gateway.offsets import parse_offsets
from faas.gateway.origins import check_origin
from faas.ids import ExecutionId, SandboxId
from faas.lifecycle import InstanceState
from faas.tenancy import Principal
from faas.tenancy import Scope as KeyScope

FRAME_BYTES_MAX = 1 << 20
"""Of one command: input comes in pieces, and nothing else is large."""

FOLLOWED_MAX = 64
"""Commands one client follows at once."""

WATCHES_MAX = 4

_QUERY_FIELDS_MAX = 80
_RESTARTING = 1012
_TOO_LARGE = 1009
_REFUSED = 1008

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Command).decode


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client said when it connected."""

    offsets: dict[str, tuple[int, int]]
    watched: tuple[str, ...]


class ContainerStreams:
    """The ASGI application of the route."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            principal = self._door.keys.identify(headers)
            principal.require(KeyScope.EXECUTE)
            check_origin(headers, self._door.settings)
            self._check_room()
            reference: str = scope["path_params"]["id"]
            place = self._door.executor.places.find(reference, principal)
            if place.execution_id is not None:
                await self._door.executor.get(place.execution_id, principal)
            wishes = _wishes(scope["query_string"], place)
        except FaasError as refused:
            answer = problems.reply(refused, trace_id_of(headers))
            denial = Response(answer.body, answer.status, media_type="application/problem+json")
            await socket.send_denial_response(denial)
            return
        await socket.accept()
        await self._serve(Session(self._door, socket, principal, place=place, wishes=wishes))

    async def _serve(self, session: "Session") -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is always served in a task"  # noqa: S101  an invariant
        self._door.streams.add(task)
        try:
            await session.run()
        except asyncio.CancelledError:
            if not self._door.is_closing:
                raise
            task.uncancel()
            await session.close(_RESTARTING)
        finally:
            self._door.streams.discard(task)

    def _check_room(self) -> None:
        most = self._door.settings.streams_max
        if self._door.is_closing:
            raise UnavailableError("the gateway is shutting down", retry_after_seconds=1.0)
        if len(self._door.streams) >= most:
            raise ResourceExhaustedError(
                f"{most} streams are open, and more are not allowed",
                details={"streams_max": most},
            )


class Session:
    """One client."""

    def __init__(
        self, door: Door, socket: WebSocket, principal: Principal, *, place: Place, wishes: Wishes
    ) -> None:
        self._door = door
        self._socket = socket
        self._principal = principal
        self._place = place
        self._wishes = wishes
        self._sending = asyncio.Lock()
        self._gone = asyncio.Event()
        self._followed: dict[ExecutionId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands = Commands(door, principal, place=place, tell=self.tell, follow=self._follow)

    async def run(self) -> None:
        """Serve until it is over, the client goes away or takes nothing any more."""
        subscription = self._door.events.subscribe()
        try:
            main = self._spawn(self._main(subscription))
            reader = self._spawn(self._read())
            gone = self._spawn(self._until_gone())
            await asyncio.wait({main, reader, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in (main, reader):
                if task.done() and not task.cancelled() and (failure := task.exception()):
                    await self._fail(failure)
        finally:
            self._door.events.unsubscribe(subscription)
            await self._end_tasks()
        await self.close(1000)

    async def close(self, code: int) -> None:
        """Close the connection, whoever closed it before."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
                await self._socket.close(code)

    async def tell(self, event: msgspec.Struct) -> None:
        """Send one event.

        Raises:
            WebSocketDisconnect: the client is gone, or took nothing for too long.
        """
        text = _encode(event).decode()
        async with self._sending:
            try:
                async with asyncio.timeout(self._door.settings.send_timeout_seconds):
                    await self._socket.send_text(text)
            except (TimeoutError, RuntimeError, WebSocketDisconnect) as stuck:
                self._gone.set()
                raise WebSocketDisconnect(1006) from stuck

    async def _until_gone(self) -> None:
        await self._gone.wait()

    async def _fail(self, failure: BaseException) -> None:
        if isinstance(failure, WebSocketDisconnect):
            return
        if isinstance(failure, FaasError):
            with contextlib.suppress(WebSocketDisconnect):
                await self.tell(_error(failure))
            return
        raise failure

    async def _main(self, subscription: Subscription) -> None:
        self._spawn(self._beat())
        for path in self._wishes.watched:
            self._spawn(self._watch(path))
        for reference in self._wishes.offsets:
            self._follow(ExecutionId(reference))
        if self._place.execution_id is not None:
            self._spawn(self._notice(subscription))
            await self._follow(self._place.execution_id)
            while others := [task for task in self._followed.values() if not task.done()]:
                await asyncio.wait(others)
            return
        self._follow_running()
        await self._notice(subscription)

    async def _notice(self, subscription: Subscription) -> None:
        """Follow what others begin there; return when the instance is no more."""
        async for event in subscription:
            if isinstance(event, ExecutionStarted) and event.tenant == self._principal.tenant.id:
                self._follow_begun(event)
            elif (
                isinstance(event, InstanceChanged)
                and event.instance_id == self._place.instance_id
                and event.state
                in (InstanceState.STOPPED, InstanceState.DESTROYED, InstanceState.FAILED)
            ):
                while others := [task for task in self._followed.values() if not task.done()]:
                    await asyncio.wait(others)
                await self.tell(ExitEvent(code=0, reason=event.state))
                return

    def _follow_running(self) -> None:
        sandbox_id = self._sandbox_id()
        if sandbox_id is None:
            return
        for execution_id in self._door.executor.places.running_in(sandbox_id, self._principal):
            self._follow_one_more(execution_id)

    def _follow_begun(self, event: ExecutionStarted) -> None:
        """By its id: it may have ended by now."""
        if event.sandbox_id == self._sandbox_id():
            self._follow_one_more(event.execution_id)

    def _sandbox_id(self) -> SandboxId | None:
        try:
            return self._door.executor.places.sandbox(self._place, self._principal).id
        except FaasError:
            return None

    def _follow_one_more(self, execution_id: ExecutionId) -> None:
        if len(self._followed) < FOLLOWED_MAX or execution_id in self._followed:
            self._follow(execution_id)

    def _follow(self, execution_id: ExecutionId) -> asyncio.Task[None]:
        known = self._followed.get(execution_id)
        if known is None:
            for ended in [key for key, task in self._followed.items() if task.done()]:
                del self._followed[ended]
            work = self._answer(self._tell_all_of(execution_id))
            known = self._followed[execution_id] = self._spawn(work)
        return known

    async def _tell_all_of(self, execution_id: ExecutionId) -> None:
        executor, who = self._door.executor, self._principal
        record = await executor.get(execution_id, who)
        await executor.places.begun(execution_id)
        offsets = self._wishes.offsets.get(execution_id)
        command, pid = " ".join(record.spec.argv), executor.places.pid(execution_id, who)
        if offsets is None:
            await self.tell(ProcessEvent(pid, command, "started", execution_id))
        follower = Follower(
            executor.logs(execution_id, who), execution_id, offsets or (0, 0), tell=self.tell
        )
        await follower.run()
        final = await executor.wait(execution_id, who)
        result, failure = final.result, final.failure
        await self.tell(ProcessEvent(pid, command, "stopped", execution_id))
        await self.tell(
            ExitEvent(
                code=None if result is None else result.exit_code,
                reason="failed" if result is None else result.reason.value,
                signal=None if result is None else result.signal,
                execution_id=execution_id,
                error=None if failure is None else failure.message,
            )
        )

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data: str | bytes = message.get("text") or message.get("bytes") or b""
            if len(data) > FRAME_BYTES_MAX:
                await self.close(_TOO_LARGE)
                return
            await self._obey(data)

    async def _obey(self, data: str | bytes) -> None:
        try:
            command = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as wrong:
            await self.tell(_error(InvalidArgumentError(f"not a command: {str(wrong)[:200]}")))
            return
        try:
            slow = await self._commands.obey(command)
        except FaasError as refused:
            await self.tell(_error(refused))
            return
        if slow is not None:
            self._spawn(self._answer(slow))

    async def _answer(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FaasError as refused:
            await self.tell(_error(refused))

    async def _beat(self) -> None:
        while True:
            await self._door.clock.sleep(self._door.settings.heartbeat_seconds)
            await self.tell(HeartbeatEvent(self._door.clock.now()))

    async def _watch(self, path: str) -> None:
        watch = FileWatch(path)
        while True:
            with contextlib.suppress(FaasError):
                sandbox = self._door.executor.places.sandbox(self._place, self._principal)
                for event in await watch.look(sandbox):
                    await self.tell(event)
            await self._door.clock.sleep(watch.pause_seconds)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        """What `tell` raised is known by `_gone`; all else was told as it happened."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _error(failure: FaasError) -> CustomEvent:
    told = {"code": failure.code, "detail": failure.message, "hint": failure.hint}
    return CustomEvent("error", told)


def _wishes(query: bytes, place: Place) -> Wishes:
    offsets: dict[str, tuple[int, int]] = {}
    watched: list[str] = []
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX
        )
    except ValueError as wrong:
        raise InvalidArgumentError("the query string cannot be read") from wrong
    for name, value in pairs:
        if name == "offset" and place.execution_id is not None:
            offsets[place.execution_id] = parse_offsets(value)
        elif name == "resume":
            execution_id, _, at = value.rpartition(":")
            offsets[execution_id] = parse_offsets(at)
        elif name == "watch" and value.startswith("/") and "\0" not in value:
            watched.append(value)
        else:
            raise InvalidArgumentError(
                f"query: {name[:32]!r} is not known, or not so",
                hint="known are offset=OUT-ERR (of an execution), resume=EXECUTION:OUT-ERR,"
                " watch=/DIRECTORY",
            )
    if len(watched) > WATCHES_MAX or len(offsets) > FOLLOWED_MAX:
        raise InvalidArgumentError(f"at most {WATCHES_MAX} watches and {FOLLOWED_MAX} resumes")
    return Wishes(offsets, tuple(watched))
