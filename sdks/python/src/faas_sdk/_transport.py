"""Sends calls: repeated where that is safe, refusals turned into exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import AsyncGenerator, Callable, Dict, Optional

import httpx

from faas_sdk._calls import Call, Failure, broken, refused
from faas_sdk._connection import client_options, current_loop
from faas_sdk._errors import FaaSError
from faas_sdk._models import ClientConfig
from faas_sdk._retry import RetryPolicy

RetryListener = Callable[[int, FaaSError, float], None]

STREAM_RETRIES = 9
"""With the default delays twenty seconds: a gateway that is restarted is back by then."""


class Transport:
    """Sends calls over one pool of connections."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        transport: Optional[httpx.AsyncBaseTransport] = None,
        on_retry: RetryListener,
    ) -> None:
        self._options = client_options(config)
        if transport is not None:
            self._options["transport"] = transport
        self._policy = RetryPolicy(
            max_retries=config.max_retries,
            delay_seconds=config.retry_delay_seconds,
            delay_seconds_max=config.retry_delay_seconds_max,
        )
        self._stream_policy = replace(
            self._policy, max_retries=max(config.max_retries, STREAM_RETRIES)
        )
        self._on_retry = on_retry
        self._connect_seconds = config.timeout
        self._http: Optional[httpx.AsyncClient] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    def client(self) -> httpx.AsyncClient:
        """Return the HTTP client, made when first needed, and anew for another event loop."""
        loop = current_loop()
        if self._http is None or self._http.is_closed or self._loop is not loop:
            self._http, self._loop = httpx.AsyncClient(**self._options), loop
        return self._http

    async def aclose(self) -> None:
        """Close the connections. The next call opens new ones."""
        http, self._http = self._http, None
        if http is not None and self._loop is current_loop():
            await http.aclose()

    async def send(self, call: Call) -> httpx.Response:
        """Send a call and return its answer, read whole.

        Raises:
            FaaSError: the gateway refused, or could not be reached, also after the repeats.
        """
        gives_up_at = time.monotonic() + call.read_seconds + self._connect_seconds
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self.client().send(self._request(call))
            except httpx.HTTPError as error:
                failure = broken(error, call)
            else:
                if response.is_success or response.status_code in call.accepted:
                    return response
                failure = refused(response)
            await self._pause(failure, attempt, gives_up_at)

    @contextlib.asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[httpx.Response, None]:
        """Send a call whose answer is read as it comes. Never repeated: only its reader knows how.

        Raises:
            FaaSError: the gateway refused, could not be reached, or the connection broke.
        """
        try:
            response = await self.client().send(self._request(call), stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    raise refused(response).error
                yield response
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise broken(error, call).error from error

    async def pause(self, error: FaaSError, attempt: int) -> None:
        """Wait before another attempt at a stream, which is worth more of them than one request.

        Raises:
            FaaSError: the one given, when there were enough attempts.
        """
        failure = Failure(error, is_retryable=True, cause=None)
        gives_up_at = time.monotonic() + self._connect_seconds
        await self._pause(failure, attempt, gives_up_at, self._stream_policy)

    async def _pause(
        self,
        failure: Failure,
        attempt: int,
        gives_up_at: float,
        policy: Optional[RetryPolicy] = None,
    ) -> None:
        delay = None
        if failure.is_retryable:
            delay = (policy or self._policy).delay(
                attempt=attempt,
                retry_after_seconds=failure.error.retry_after_seconds,
                remaining_seconds=gives_up_at - time.monotonic(),
            )
        if delay is None:
            raise failure.error from failure.cause
        self._on_retry(attempt, failure.error, delay)
        await asyncio.sleep(delay)

    def _request(self, call: Call) -> httpx.Request:
        headers: Dict[str, str] = dict(call.headers)
        content = call.content if call.stream is None else call.stream()
        if call.body is not None:
            content = json.dumps(call.body, separators=(",", ":")).encode("ascii")
            headers["Content-Type"] = "application/json"
        timeout = httpx.Timeout(
            self._connect_seconds, read=call.read_seconds, pool=call.read_seconds
        )
        return self.client().build_request(
            call.method,
            call.path,
            content=content,
            headers=headers,
            params=dict(call.query) or None,
            timeout=timeout,
        )
