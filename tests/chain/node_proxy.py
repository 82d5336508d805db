"""Stands between an operator and its node, and does what nodes do: vanish, lag, drop the socket."""

import asyncio
import contextlib
import json

import aiohttp
from aiohttp import web


class Hold:
    """Keeps one question, before the node sees it or before the operator hears the answer."""

    def __init__(self, method: str, about: str = "", *, is_after: bool = False) -> None:
        self._method, self._about, self._is_after = method, about.lower(), is_after
        self.is_met = asyncio.Event()
        self.may_go = asyncio.Event()

    def is_met_by(self, asked) -> bool:
        is_it = asked["method"] == self._method and self._about in json.dumps(asked).lower()
        return is_it and not self.may_go.is_set()

    async def keep(self, passed_on, asked):
        if self._is_after:
            await passed_on(asked)
        self.is_met.set()
        await self.may_go.wait()
        # Whoever asked is dead: what was not passed on never will be.
        raise web.HTTPServiceUnavailable


class NodeProxy:
    """HTTP and WebSocket through to a node; every misbehaviour is a field."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.is_down = False
        self.lag = 0
        self.range_max: int | None = None
        self.hold: Hold | None = None
        self.asked: list[str] = []
        self.sockets: set[web.WebSocketResponse] = set()

    @contextlib.asynccontextmanager
    async def run(self):
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post("/", self._post)
        app.router.add_get("/", self._socket)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = site._server.sockets[0].getsockname()
        self.session = aiohttp.ClientSession()
        try:
            yield f"{host}:{port}"
        finally:
            await self.drop_sockets()
            await self.session.close()
            await runner.cleanup()

    async def drop_sockets(self) -> None:
        for socket in list(self.sockets):
            await socket.close()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if self.is_down:
            request.transport.abort()
            return web.Response(status=502)
        asked = json.loads(await request.read())
        if not isinstance(asked, list):
            return web.json_response(await self._answer(asked))
        return web.json_response([await self._answer(each) for each in asked])

    async def _answer(self, asked):
        self.asked.append(asked["method"])
        if self.range_max and asked["method"] == "eth_getLogs":
            first, last = (int(asked["params"][0][name], 16) for name in ("fromBlock", "toBlock"))
            if last - first >= self.range_max:
                error = {"code": -32005, "message": "block range is too wide"}
                return {"jsonrpc": "2.0", "id": asked["id"], "error": error}
        hold = self.hold
        if hold and hold.is_met_by(asked):
            return await hold.keep(self._passed_on, asked)
        return await self._passed_on(asked)

    async def _passed_on(self, asked):
        if self.lag:
            asked, is_beyond = await self._behind(asked)
            if is_beyond:
                return {"jsonrpc": "2.0", "id": asked["id"], "result": None}
        async with self.session.post(self.target, json=asked) as answer:
            return await answer.json()

    async def _behind(self, asked):
        if asked["method"] not in ("eth_getBlockByNumber", "eth_getLogs"):
            return asked, False
        question = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}
        async with self.session.post(self.target, json=question) as answer:
            known = max(0, int((await answer.json())["result"], 16) - self.lag)
        if asked["method"] == "eth_getLogs":
            asked["params"][0]["toBlock"] = hex(min(int(asked["params"][0]["toBlock"], 16), known))
            return asked, False
        if asked["params"][0] == "latest":
            asked["params"][0] = hex(known)
        return asked, int(asked["params"][0], 16) > known

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        near = web.WebSocketResponse()
        if self.is_down:
            request.transport.abort()
            return near
        await near.prepare(request)
        self.sockets.add(near)
        url = self.target.replace("http", "ws", 1)
        async with self.session.ws_connect(url) as far:
            back = asyncio.ensure_future(self._pass(far, near))
            await self._pass(near, far)
            back.cancel()
        self.sockets.discard(near)
        return near

    async def _pass(self, source, target) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError, asyncio.CancelledError):
            async for message in source:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await target.send_str(message.data)
