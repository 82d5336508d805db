"""Requests to a live gateway, as any client makes them."""

import json
import urllib.error
import urllib.request
from typing import Any


class Calls:
    """JSON in, JSON out; `fails` is the status that is expected instead of success."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, *, fails: int | None = None) -> Any:
        return self._call("GET", path, None, fails)

    def post(self, path: str, body: object = None, *, fails: int | None = None) -> Any:
        return self._call("POST", path, body, fails)

    def delete(self, path: str, *, fails: int | None = None) -> Any:
        return self._call("DELETE", path, None, fails)

    def logs(self, execution_id: str) -> str:
        """What a command has said so far."""
        status, said = self._send("GET", f"/api/v1/executions/{execution_id}/logs", None)
        assert status == 200, said
        return said.decode()

    def _call(self, method: str, path: str, body: object, fails: int | None) -> Any:
        status, said = self._send(method, path, body)
        assert status // 100 == 2 if fails is None else status == fails, (method, path, said)
        return json.loads(said) if said else None

    def _send(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"content-type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._open(request, timeout=100) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
