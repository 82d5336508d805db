import asyncio
from collections.abc import Callable

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from faas.gateway.http_protocol import HttpProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Recorder(asyncio.Transport):
    """Notes each write by itself."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def serve(app: Callable[..., object], request: bytes = REQUEST) -> Recorder:
    transport = Recorder()
    protocol = HttpProtocol(
        Config(app, lifespan="off", log_config=None),  # type: ignore[arg-type]
        ServerState(),
        {},
    )
    protocol.connection_made(transport)
    protocol.data_received(request)
    for _ in range(8):
        await asyncio.sleep(0)
    return transport


def answering(body: bytes) -> Callable[..., object]:
    async def app(scope: dict[str, object], receive: object, send: Callable[..., object]) -> None:
        length = str(len(body)).encode()
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", length)]})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": body})  # type: ignore[misc]

    return app


async def test_an_answer_goes_out_in_one_piece() -> None:
    sent = await serve(answering(b"all of it"))
    assert len(sent.writes) == 1
    assert sent.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert sent.writes[0].endswith(b"\r\n\r\nall of it")


async def test_a_body_that_looks_like_a_head_arrives() -> None:
    sent = await serve(answering(b"HTTP/1.1 is what I quote"))
    assert b"".join(sent.writes).endswith(b"\r\n\r\nHTTP/1.1 is what I quote")


async def test_a_large_body_is_not_copied() -> None:
    sent = await serve(answering(b"x" * 100_000))
    assert [len(piece) == 100_000 for piece in sent.writes] == [False, True]


async def test_the_head_of_a_stream_does_not_wait_for_its_first_event() -> None:
    release = asyncio.Event()

    async def app(scope: dict[str, object], receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await release.wait()
        await send({"type": "http.response.body", "body": b"late"})  # type: ignore[misc]

    sent = await serve(app)
    assert len(sent.writes) == 1
    assert sent.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    release.set()
    for _ in range(4):
        await asyncio.sleep(0)
    assert b"late" in sent.writes[1]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_connection_that_closes_has_its_whole_answer(version: bytes) -> None:
    request = b"GET / HTTP/%b\r\nHost: here\r\nConnection: close\r\n\r\n" % version
    sent = await serve(answering(b"bye"), request)
    assert sent.is_closed
    assert b"".join(sent.writes).endswith(b"bye")
