"""The long-lived launcher process: a plan goes in, a sandbox comes out.

A small C program that forks quickly, because this process, being large, does not. It is started
once, in a session of its own so that Ctrl-C does not reach it, and again when it has died. It
leaves when its control socket closes, that is when we do; its sandboxes stay.
"""

import array
import asyncio
import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from faas.clock import expire_later
from faas.errors import FaasError, RuntimeUnavailableError, SandboxBrokenError, TooLargeError

_HEAD = struct.Struct("<BBHI")
_LAUNCH, _PING, _CHORES, _SPARES, _LAYER, _CRIU = 1, 2, 3, 4, 5, 6
_LAUNCHED, _FAILED, _EXITED, _PONG, _CHORES_DONE, _CRIU_ENDED, _LAYER_DONE = 1, 2, 3, 4, 5, 6, 7
_LAYER_BODY = struct.Struct("<BQQQ")
_LAUNCH_SECONDS = 15.0
"""The launcher gives up a child after 10; past this it is itself stuck."""
_STOP_SECONDS = 2.0
PACKET_BYTES_MAX = 128 << 10
SPARE_PREFIX = "spare-"
_SEND_BYTES = 4 << 20
_U32_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Launched:
    """A sandbox's first process, as the host sees it. The descriptor belongs to the receiver."""

    pid: int
    start_time: int
    userns: str
    pidfd: int


class LayerVerb(IntEnum):
    """What can be done with layers; `native/PROTOCOL.md` says it."""

    TAKE = 1
    MAKE = 2
    DROP = 3
    LOOK = 4


class Launcher:
    """Owns the launcher process."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[Launched]] = {}
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._chores: dict[int, asyncio.Future[int]] = {}
        self._layers: dict[int, asyncio.Future[tuple[int, int | None]]] = {}
        self.generation = 0
        """Counts the processes there were: what one held in itself is gone with it."""
        self._spares: bytes | None = None
        self._runs: dict[int, asyncio.Future[int]] = {}

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    @property
    def spare_prefix(self) -> str | None:
        """How the names of the control groups begin that it keeps for sandboxes to come."""
        return f"{SPARE_PREFIX}{self.pid}-" if self.pid else None

    def keep_spares(self, count: int, parents: list[str]) -> None:
        """Have it keep processes in control groups made ahead; called before it is started."""
        texts = [_text(parent) for parent in parents]
        body = struct.pack("<I", count) + _text(SPARE_PREFIX) + struct.pack("<I", len(texts))
        self._spares = body + b"".join(texts)

    async def start(self) -> None:
        """Start the process and hear it answer.

        Raises:
            RuntimeUnavailableError: the program is missing, or does not run here.
        """
        self._ensure_running()
        try:
            async with asyncio.timeout(_LAUNCH_SECONDS):
                await self._ping()
        except (TimeoutError, SandboxBrokenError) as error:
            raise RuntimeUnavailableError(
                "the sandbox launcher does not run", hint="run `faas doctor`"
            ) from error

    async def launch(self, plan: bytes, listener: socket.socket) -> Launched:
        """Make a sandbox whose agent listens on `listener`, by an encoded plan.

        Raises:
            SandboxBrokenError: a step failed; details name it.
            TooLargeError: the plan does not fit into one packet.
        """
        if len(plan) > PACKET_BYTES_MAX - _HEAD.size:
            raise TooLargeError(f"a plan of {len(plan)} bytes is too long")
        self._ensure_running()
        number = self._new_id()
        answer: asyncio.Future[Launched] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        packet = _HEAD.pack(_LAUNCH, 0, 0, number) + plan
        timer = expire_later(answer, _LAUNCH_SECONDS, asyncio.get_running_loop())
        try:
            await self._send(packet, [listener.fileno()])
            return await answer
        except TimeoutError:
            raise SandboxBrokenError("the launcher did not answer in time") from None
        except asyncio.CancelledError:
            await self._end_unwanted(number, answer)
            raise
        finally:
            timer.cancel()

    async def _end_unwanted(self, number: int, answer: asyncio.Future[Launched]) -> None:
        """Wait for what a cancelled caller asked for, and kill it; its undo comes after this."""
        if answer.cancelled() and self._control is not None:
            answer = self._pending[number] = asyncio.get_running_loop().create_future()
            timer = expire_later(answer, _LAUNCH_SECONDS, asyncio.get_running_loop())
            with contextlib.suppress(TimeoutError, FaasError):
                await answer
            timer.cancel()
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            _end(answer.result().pidfd)

    async def do(self, chores: list[bytes]) -> int:
        """Have small file work done in order (`mkdir` and its siblings below make a chore).

        Returns 0, or the errno of the first that failed; what came after it was not done.

        Raises:
            SandboxBrokenError: the launcher is gone.
        """
        self._ensure_running()
        number = self._new_id()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._chores[number] = done
        try:
            await self._send(_HEAD.pack(_CHORES, 0, 0, number) + b"".join(chores), [])
            return await self._done(number, done)
        finally:
            self._chores.pop(number, None)

    async def run_criu(self, request: bytes, descriptors: Sequence[int], *, seconds: float) -> int:
        """Run CRIU in a sandbox (`criu.Run` makes the request); return its exit code.

        What was begun is ended, also when the caller is cancelled or this process dies.

        Raises:
            SandboxBrokenError: it could not be begun, or did not end in time.
        """
        self._ensure_running()
        number = self._new_id()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._runs[number] = ended
        try:
            await self._send(_HEAD.pack(_CRIU, 0, 0, number) + request, list(descriptors))
            await _wait_out(ended, seconds)
            if not ended.done():
                raise SandboxBrokenError("criu did not end in time")
            return os.waitstatus_to_exitcode(ended.result())
        finally:
            self._runs.pop(number, None)

    async def _done(self, number: int, done: asyncio.Future[int]) -> int:
        loop = asyncio.get_running_loop()
        timer = expire_later(done, _LAUNCH_SECONDS, loop)
        try:
            return await done
        except TimeoutError:
            raise SandboxBrokenError("the launcher did not answer in time") from None
        except asyncio.CancelledError:
            # What was sent will be done, so a cancelled caller too waits until it is over: else its
            # undo would run before the very work it is to undo.
            if done.cancelled() and self._control is not None:
                over = self._chores[number] = loop.create_future()
                late = expire_later(over, _LAUNCH_SECONDS, loop)
                with contextlib.suppress(TimeoutError, SandboxBrokenError):
                    await over
                late.cancel()
            raise
        finally:
            timer.cancel()

    async def layer(
        self,
        verb: LayerVerb,
        number: int = 0,
        *,
        size_bytes: int = 0,
        inodes: int = 0,
        pidfd: int | None = None,
    ) -> tuple[int, int | None]:
        """Do something with layers; return an errno or 0, and a descriptor that belongs to the
        caller.

        Raises:
            SandboxBrokenError: the launcher is gone.
        """
        self._ensure_running()
        request = self._new_id()
        answer: asyncio.Future[tuple[int, int | None]] = asyncio.get_running_loop().create_future()
        self._layers[request] = answer
        body = _LAYER_BODY.pack(verb, number, size_bytes, inodes)
        try:
            async with asyncio.timeout(_LAUNCH_SECONDS):
                await self._send(
                    _HEAD.pack(_LAYER, 0, 0, request) + body, [] if pidfd is None else [pidfd]
                )
                return await answer
        except TimeoutError:
            raise SandboxBrokenError("the launcher did not answer in time") from None
        finally:
            self._layers.pop(request, None)

    async def aclose(self) -> None:
        """Let the process go. Its sandboxes stay. Idempotent."""
        self._disconnect("the launcher was stopped")
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_reap, process)

    async def _ping(self) -> None:
        number = self._new_id()
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings[number] = pong
        try:
            await self._send(_HEAD.pack(_PING, 0, 0, number), [])
            await pong
        finally:
            self._pings.pop(number, None)

    def _ensure_running(self) -> None:
        if self._control is not None:
            return
        if self._process is not None:
            _reap(self._process)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.settimeout(0)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            try:
                self._process = _spawn(self._binary, theirs)
            except OSError as error:
                ours.close()
                raise RuntimeUnavailableError(
                    f"the sandbox launcher cannot be started: {error.strerror}",
                    hint="build it: make native",
                ) from error
        self._control = ours
        if self._spares is not None:  # it fits: nothing was sent before; the answer is not awaited
            ours.send(_HEAD.pack(_SPARES, 0, 0, 0) + self._spares)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable)

    async def _send(self, packet: bytes, descriptors: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        for pause in (0.0, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0):
            await asyncio.sleep(pause) if pause else None
            if self._control is None:
                raise SandboxBrokenError("the launcher is gone")
            try:
                self._control.sendmsg([packet], ancillary if descriptors else [])
            except BlockingIOError:
                continue
            except OSError as error:
                self._disconnect("the launcher is gone")
                raise SandboxBrokenError("the launcher is gone") from error
            return
        raise SandboxBrokenError("the launcher is overloaded")

    def _on_readable(self) -> None:
        while self._control is not None:
            try:
                data, ancillary, flags, _ = self._control.recvmsg(
                    PACKET_BYTES_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary, flags = b"", [], 0
            if not data:
                self._disconnect("the launcher died")
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) < _HEAD.size:
                self._disconnect("the launcher speaks nonsense")
                return
            self._on_packet(data, _descriptors(ancillary))

    def _on_packet(self, data: bytes, descriptors: list[int]) -> None:
        kind, _, _, number = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if kind == _LAUNCHED and len(descriptors) == 1:
            self._on_launched(number, body, descriptors.pop())
        elif kind == _FAILED:
            answer = self._pending.pop(number, None) or self._runs.get(number)
            if answer is not None and not answer.done():
                answer.set_exception(_failure(body))
        elif kind == _PONG:
            pong = self._pings.get(number)
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif kind in (_CHORES_DONE, _CRIU_ENDED):
            done = (self._chores if kind == _CHORES_DONE else self._runs).get(number)
            if done is not None and not done.done():
                done.set_result(struct.unpack_from("<I", body)[0])
        elif kind == _LAYER_DONE:
            self._on_layer_done(number, body, descriptors)
        # EXITED says nothing that the sandbox's own pidfd does not say, also after a restart.
        for descriptor in descriptors:
            os.close(descriptor)

    def _on_layer_done(self, number: int, body: bytes, descriptors: list[int]) -> None:
        waiting = self._layers.get(number)
        if waiting is not None and not waiting.done():
            opened = descriptors.pop() if descriptors else None
            waiting.set_result((struct.unpack_from("<I", body)[0], opened))

    def _on_launched(self, number: int, body: bytes, pidfd: int) -> None:
        pid, start_time, length = struct.unpack_from("<IQI", body)
        label = body[16 : 16 + length].decode("ascii", "replace")
        answer = self._pending.pop(number, None)
        if answer is None or answer.done():
            # Nobody waits for it any more: it must not live on without an owner.
            _end(pidfd)
            return
        answer.set_result(Launched(pid, start_time, label, pidfd))

    def _disconnect(self, why: str) -> None:
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        self.generation += 1
        pending, self._pending = self._pending, {}
        others = (self._pings, self._chores, self._layers, self._runs)
        for answer in [*pending.values(), *(one for each in others for one in each.values())]:
            if not answer.done():
                answer.set_exception(SandboxBrokenError(why))

    def _new_id(self) -> int:
        self._last_id = self._last_id % _U32_MAX + 1
        return self._last_id


def mkdir(path: str, mode: int = 0o755) -> bytes:
    """Make a directory."""
    return _chore(1, path, struct.pack("<I", mode))


def write(path: str, text: str, *, is_wish: bool = False) -> bytes:
    """Write an existing file; a wish may fail."""
    data = text.encode()
    return _chore(2, path, struct.pack("<BI", is_wish, len(data)) + data)


def unlink(path: str) -> bytes:
    """Remove a file that may be there."""
    return _chore(3, path, b"")


def rmdir(path: str) -> bytes:
    """Remove an empty directory that may be there."""
    return _chore(4, path, b"")


def _chore(kind: int, path: str, rest: bytes) -> bytes:
    name = _text(path)
    return struct.pack("<BI", kind, len(name) + len(rest)) + name + rest


def _text(text: str) -> bytes:
    raw = os.fsencode(text)
    return struct.pack("<I", len(raw)) + raw


def _spawn(binary: Path, control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [binary, "launch", "--control", str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control.fileno()],
        start_new_session=True,
        cwd="/",
        env={},
    )


async def _wait_out(done: "asyncio.Future[int]", seconds: float = _LAUNCH_SECONDS) -> None:
    """Wait for an answer, within bounds, and only then be cancelled."""
    try:
        await asyncio.wait({done}, timeout=seconds)
    except asyncio.CancelledError:
        await asyncio.wait({done}, timeout=seconds)
        if done.done():
            done.exception()  # nobody else will look at it
        raise


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _failure(body: bytes) -> SandboxBrokenError:
    number, length = struct.unpack_from("<II", body)
    step = body[8 : 8 + length].decode("utf-8", "replace")
    # The launcher's words may name a path of this host; the verb before it is enough for a user.
    verb = " ".join(word for word in step.split() if "/" not in word)
    reason = os.strerror(number) if number in errno.errorcode else f"error {number}"
    return SandboxBrokenError(
        f"the sandbox could not be made: {verb}: {reason}",
        hint="run `faas doctor`",
        details={"errno": errno.errorcode.get(number, str(number)), "step": verb},
    )


def _end(pidfd: int) -> None:
    """Kill it, and give its descriptor back."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
