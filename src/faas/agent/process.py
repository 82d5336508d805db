"""One command behind a channel: how far it has come, its input, its end."""

import asyncio
import signal as signals
from collections.abc import Callable

from faas.agent.channel import AgentChannel
from faas.agent.protocol import (
    SIGNAL_TREE,
    STDIN_LAST,
    Answer,
    ExitFrame,
    Request,
    pack_blob,
    pack_u32,
    pack_u64,
    parse_offset,
)
from faas.errors import FaasError, InvalidArgumentError, SandboxBrokenError, WrongStateError
from faas.sandbox.protocols import Exit, Progress

_STDIN_CHUNK_BYTES = 256 << 10
_STDIN_PATIENCE_SECONDS = 1.0
"""How long a write waits for a command that reads nothing before it reports what was taken."""

Verdict = Callable[[ExitFrame], Exit]
"""Adds what only the host knows (memory, the out-of-memory killer) to the agent's account."""
LossVerdict = Callable[[], Exit | None]
"""Says how it ended when the sandbox died under it; None when that is our failure."""


def plain_verdict(ended: ExitFrame) -> Exit:
    """Believe the agent and add nothing."""
    return Exit(
        code=ended.code,
        signal=ended.signal,
        reason=ended.reason,
        stdout_kept_bytes=ended.stdout_kept,
        stdout_total_bytes=ended.stdout_total,
        stderr_kept_bytes=ended.stderr_kept,
        stderr_total_bytes=ended.stderr_total,
        wall_us=ended.wall_us,
        cpu_us=ended.cpu_us,
        memory_peak_bytes=ended.memory_peak_bytes or None,
    )


def _no_verdict() -> Exit | None:
    return None


class AgentProcess:
    """A `Process`. Waiters are plain futures, one each, so cancelling one touches no other."""

    def __init__(
        self,
        channel: AgentChannel,
        name: str,
        *,
        verdict: Verdict = plain_verdict,
        loss_verdict: LossVerdict = _no_verdict,
    ) -> None:
        self._channel = channel
        self._name = name
        self._verdict = verdict
        self._loss_verdict = loss_verdict
        self._id = 0
        self.pid: int | None = None
        """In the sandbox's own numbering."""
        self._progress = Progress(0, 0, is_ended=False)
        self._exit: Exit | None = None
        self._lost: SandboxBrokenError | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._changes: set[asyncio.Future[None]] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def command_id(self) -> int:
        """Its id on the channel."""
        return self._id

    @property
    def is_ended(self) -> bool:
        """Whether there will be no more news."""
        return self._exit is not None or self._lost is not None

    def bind(self, command_id: int) -> None:
        """Learn the id by which later frames name the command."""
        self._id = command_id

    async def wait(self) -> Exit:
        while self._exit is None:
            if self._lost is not None:
                raise SandboxBrokenError(details=self._lost.details)
            await _news(self._waiters)
        return self._exit

    def progress(self) -> Progress:
        return self._progress

    async def changed(self, seen: Progress) -> Progress:
        while self._progress == seen:
            if self._lost is not None:
                raise SandboxBrokenError(details=self._lost.details)
            await _news(self._changes)
        return self._progress

    async def write_stdin(self, data: bytes, *, offset: int, is_last: bool = False) -> int:
        end, taken, patience = offset + len(data), offset, 0.0
        pause = 0.001
        while True:
            chunk = data[taken - offset : taken - offset + _STDIN_CHUNK_BYTES]
            closes = is_last and taken + len(chunk) == end
            now_taken = await self._send_stdin(taken, chunk, closes=closes)
            if now_taken >= end:
                return now_taken
            if now_taken > taken:
                taken, patience, pause = now_taken, 0.0, 0.001
                continue
            if patience >= _STDIN_PATIENCE_SECONDS:
                return now_taken
            await asyncio.sleep(pause)
            patience, pause = patience + pause, min(pause * 2, 0.1)

    async def _send_stdin(self, offset: int, chunk: bytes, *, closes: bool) -> int:
        self._refuse_when_ended()
        payload = pack_u64(offset) + pack_blob(chunk)
        flags = STDIN_LAST if closes else 0
        try:
            answer = await self._ask(Request.STDIN, payload, flags=flags, expects=Answer.STDIN_OK)
        except InvalidArgumentError as error:
            raise _stdin_refusal(error, offset) from error
        return parse_offset(answer) if len(answer) == 8 else 0  # noqa: PLR2004  one u64

    async def resize(self, *, rows: int, columns: int) -> None:
        self._refuse_when_ended()
        payload = rows.to_bytes(2, "little") + columns.to_bytes(2, "little")
        await self._ask(Request.RESIZE, payload)

    async def signal(self, number: int) -> None:
        self._refuse_when_ended()
        await self._ask(Request.SIGNAL, pack_u32(number))

    async def kill(self) -> None:
        if self.is_ended:
            return
        try:
            await self._ask(Request.SIGNAL, pack_u32(signals.SIGKILL), flags=SIGNAL_TREE)
        except FaasError as error:
            if error.details.get("errno") not in {"ESRCH", "ENOENT"}:
                raise

    def on_output(self, stdout_kept: int, stderr_kept: int) -> None:
        """Hear that more was kept; a count never goes back."""
        seen = self._progress
        self._progress = Progress(
            max(seen.stdout_bytes, stdout_kept), max(seen.stderr_bytes, stderr_kept), is_ended=False
        )
        _wake(self._changes)

    def on_exit(self, ended: ExitFrame) -> None:
        """Hear that it ended."""
        self._end(self._verdict(ended))

    def on_lost(self, error: SandboxBrokenError) -> None:
        """Hear that the channel is gone."""
        verdict = self._loss_verdict()
        if verdict is not None:
            self._end(verdict)
            return
        self._lost = error
        _wake(self._changes)
        _wake(self._waiters)

    def _end(self, ended: Exit) -> None:
        self._exit = ended
        self._progress = Progress(ended.stdout_kept_bytes, ended.stderr_kept_bytes, is_ended=True)
        _wake(self._changes)
        _wake(self._waiters)

    def _refuse_when_ended(self) -> None:
        if self._exit is not None:
            raise WrongStateError("the command has ended")

    async def _ask(
        self, kind: Request, payload: bytes, *, flags: int = 0, expects: Answer = Answer.OK
    ) -> bytes:
        return await self._channel.call(
            kind, payload, flags=flags, expects=expects, frame_id=self._id
        )


def _stdin_refusal(error: InvalidArgumentError, offset: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"input at offset {offset} cannot be taken: it leaves a gap, or the command takes none",
        hint="send from the offset of the last answer",
        details=error.details,
    )


async def _news(waiters: set[asyncio.Future[None]]) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.add(waiter)
    try:
        await waiter
    finally:
        waiters.discard(waiter)


def _wake(waiters: set[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
