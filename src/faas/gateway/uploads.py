"""A body too large for memory: in pieces, or received into a file that is gone afterwards."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from faas.errors import DeadlineExceededError, TooLargeError
from faas.gateway.exchange import ClientGoneError, Exchange

_SILENCE_SECONDS = 60.0
"""Between two pieces of a body; a client that is slower is dropped."""


@asynccontextmanager
async def received(
    exchange: Exchange, directory: Path | None, *, bytes_max: int
) -> AsyncGenerator[Path]:
    """Receive the body of a request, and yield the file that holds it.

    Raises:
        TooLargeError: it is longer than that.
        DeadlineExceededError: nothing came for a while.
        ClientGoneError: the client went away.
    """
    with TemporaryDirectory(prefix="faas-upload-", dir=directory) as scratch:
        path = Path(scratch) / "body"
        with await asyncio.to_thread(path.open, "wb") as file:
            async for piece in pieces(exchange, bytes_max=bytes_max, setting="build_bytes_max"):
                await asyncio.to_thread(file.write, piece)
        yield path


async def pieces(exchange: Exchange, *, bytes_max: int, setting: str) -> AsyncGenerator[bytes]:
    """Yield the body of a request as it comes; `setting` is what bounds it, for the refusal.

    Raises:
        TooLargeError: it is longer than that.
        DeadlineExceededError: nothing came for a while.
        ClientGoneError: the client went away.
    """
    announced = exchange.headers.get(b"content-length", b"0")
    if len(announced) > len(str(bytes_max)) or int(announced or b"0") > bytes_max:
        raise _too_large(bytes_max, setting)
    size = 0
    while (piece := await _piece(exchange)) is not None:
        size += len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max, setting)
        yield piece


async def _piece(exchange: Exchange) -> bytes | None:
    """Return the next piece, or None at the end."""
    if exchange.scope.get("faas.received"):
        return None
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            message = await exchange.receive()
    except TimeoutError as late:
        raise DeadlineExceededError("the body of the request did not arrive in time") from late
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if not message.get("more_body", False):
        exchange.scope["faas.received"] = True
    return message.get("body", b"")


def _too_large(bytes_max: int, setting: str) -> TooLargeError:
    return TooLargeError(
        f"the body of the request is larger than {bytes_max} bytes",
        hint=f"send less, or raise the setting {setting} on the gateway",
        details={"bytes_max": bytes_max},
    )
