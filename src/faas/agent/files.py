"""Files inside a sandbox, one request or a bounded run of requests each."""

from collections.abc import Callable
from typing import TypeVar

from faas.agent.channel import AgentChannel
from faas.agent.protocol import (
    CHUNK_BYTES_MAX,
    MAKE_PARENTS,
    REMOVE_RECURSIVE,
    WRITE_TRUNCATE,
    Answer,
    Request,
    pack_blob,
    pack_string,
    pack_u32,
    pack_u64,
    parse_data,
    parse_dir,
    parse_stat,
)
from faas.errors import InvalidArgumentError, TooLargeError
from faas.sandbox.protocols import FileStat

READ_BYTES_MAX = 64 << 20
"""Of one `read`; a larger file is read in pieces or as an archive."""
LIST_ENTRIES_MAX = 100_000

T = TypeVar("T")


async def write(channel: AgentChannel, path: str, data: bytes, *, mode: int) -> None:
    """Write a whole file, making its parent directories."""
    place, flags, offset = _path(path), WRITE_TRUNCATE | MAKE_PARENTS, 0
    while True:
        chunk = data[offset : offset + CHUNK_BYTES_MAX]
        payload = place + pack_u32(mode & 0o7777) + pack_u64(offset) + pack_blob(chunk)
        await channel.call(Request.WRITE, payload, flags=flags)
        offset, flags = offset + len(chunk), 0
        if offset >= len(data):
            return


async def read(channel: AgentChannel, path: str, *, offset: int, length: int | None) -> bytes:
    """Read a piece of a file, or all that follows `offset`.

    Raises:
        TooLargeError: that is more than one call may carry.
    """
    if offset < 0 or (length is not None and length < 0):
        raise InvalidArgumentError("offset and length count from zero")
    place, parts, have = _path(path), list[bytes](), 0
    while length is None or have < length:
        want = CHUNK_BYTES_MAX if length is None else min(CHUNK_BYTES_MAX, length - have)
        payload = place + pack_u64(offset + have) + pack_u32(want)
        answer = await channel.call(Request.READ, payload, expects=Answer.DATA)
        is_end, data = channel.parsed(parse_data, answer)
        parts.append(data)
        have += len(data)
        if have > READ_BYTES_MAX:
            raise TooLargeError(
                f"more than {READ_BYTES_MAX} bytes in one read",
                hint="give offset and length, or fetch an archive",
                details={"limit_bytes": READ_BYTES_MAX},
            )
        if is_end or not data:
            break
    return b"".join(parts)


async def stat(channel: AgentChannel, path: str) -> FileStat:
    """Describe what is at `path`, not following a link."""
    return await _get(channel, Request.STAT, _path(path), Answer.STAT_OK, parse_stat)


async def list_dir(channel: AgentChannel, path: str) -> list[FileStat]:
    """List a directory by name."""
    place, entries = _path(path), list[FileStat]()
    while len(entries) < LIST_ENTRIES_MAX:
        payload = place + pack_u32(len(entries))
        more, page = await _get(channel, Request.LIST_DIR, payload, Answer.DIR_OK, parse_dir)
        entries.extend(page)
        if not more or not page:
            return entries
    raise TooLargeError(f"more than {LIST_ENTRIES_MAX} entries", hint="list a smaller directory")


async def make_dir(channel: AgentChannel, path: str, *, parents: bool) -> None:
    """Make a directory; with `parents`, one that exists is fine."""
    flags = MAKE_PARENTS if parents else 0
    await channel.call(Request.MKDIR, _path(path) + pack_u32(0o755), flags=flags)


async def remove(channel: AgentChannel, path: str, *, recursive: bool) -> None:
    """Remove a file or directory."""
    await channel.call(Request.REMOVE, _path(path), flags=REMOVE_RECURSIVE if recursive else 0)


async def rename(channel: AgentChannel, source: str, target: str) -> None:
    """Move a file or directory."""
    await channel.call(Request.RENAME, _path(source) + _path(target))


async def _get(
    channel: AgentChannel,
    kind: Request,
    payload: bytes,
    expects: Answer,
    parse: Callable[[bytes], T],
) -> T:
    return channel.parsed(parse, await channel.call(kind, payload, expects=expects))


def _path(path: str) -> bytes:
    """Pack an absolute path.

    Raises:
        InvalidArgumentError: it is relative, holds NUL, or is longer than any kernel takes.
    """
    if not path.startswith("/") or "\0" in path or len(path) > 4095:  # noqa: PLR2004  PATH_MAX
        raise InvalidArgumentError(f"{path[:80]!r} is not an absolute path")
    return pack_string(path)
