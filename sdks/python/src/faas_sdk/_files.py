"""Long answers into files and files into long bodies, a piece in memory at a time."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import IO, AsyncIterator, Union

from faas_sdk._calls import Call
from faas_sdk._connection import in_thread
from faas_sdk._transport import Transport

PIECE_BYTES = 256 << 10

FilePath = Union[str, "os.PathLike[str]"]


async def save(transport: Transport, call: Call, path: FilePath) -> int:
    """Write an answer to a file, whole or not at all; return its length."""
    target = Path(path)
    staged = target.with_name(target.name + ".part")
    try:
        with staged.open("wb") as sink:
            size = await _receive(transport, call, sink)
        staged.replace(target)
    finally:
        if staged.exists():
            staged.unlink()
    return size


async def _receive(transport: Transport, call: Call, sink: IO[bytes]) -> int:
    size = 0
    async with transport.open(call) as response:
        async for piece in response.aiter_bytes(PIECE_BYTES):
            size += await in_thread(sink.write, piece)
    return size


def body_of(path: FilePath) -> Call:
    """Return the parts of a call that send a file: its pieces, and how long it is."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(Path(path).stat().st_size),
    }
    return Call("POST", "", read_seconds=0, stream=partial(_pieces, path), headers=headers)


async def _pieces(path: FilePath) -> AsyncIterator[bytes]:
    source = await in_thread(Path(path).open, "rb")
    with source:
        while True:
            piece = await in_thread(source.read, PIECE_BYTES)
            if not piece:
                return
            yield piece
