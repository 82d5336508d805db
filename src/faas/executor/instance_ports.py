"""Ports of instances, reached from outside: exposed, listed, closed, connected to.

Only what was exposed can be reached, and only the instance's own loopback: whoever asks gives a
number and nothing else. What is exposed is kept with the instance, so that an address outlives the
gateway, a stop and a start, and ends with a close or with the instance. An open connection is use:
an instance is not idle while somebody is connected, and one that sleeps is woken.
"""

import socket
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from faas.clock import Clock
from faas.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    QuotaExceededError,
    ResourceExhaustedError,
    UnsupportedError,
)
from faas.executor.instance_life import Life
from faas.executor.instance_records import InstanceRecord
from faas.executor.port_tokens import (
    TOKEN_PARAMETER,
    ExposedPort,
    PortUrls,
    check_subdomain,
    named_port,
)
from faas.ids import InstanceId
from faas.sandbox.guarded import GuardedSandbox
from faas.tenancy import Principal

PORTS_MAX = 32
"""Exposed ones of an instance: each may be known by name, and all are kept in its record."""

CONNECTIONS_MAX = 64
"""Open ones of an instance: a browser opens six, and each holds two descriptors here."""

TOKEN_SECONDS_DEFAULT = 86_400.0
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Exposure:
    """An exposed port, and how to reach it."""

    instance_id: InstanceId
    port: int
    exposed_at: datetime
    url: str
    """Where it is; to be opened with a key, or with the token."""
    token: str | None = None
    """Opens it without a key until `expires_at`. Told only to who exposes it."""
    expires_at: datetime | None = None

    @property
    def open_url(self) -> str:
        """An address that a browser can open."""
        return self.url if self.token is None else f"{self.url}?{TOKEN_PARAMETER}={self.token}"


@dataclass(frozen=True, slots=True)
class PortAt:
    """What a name in a URL means."""

    record: InstanceRecord
    exposed: ExposedPort


class Homes(Protocol):
    """The instances, as far as their ports are concerned."""

    def get(self, reference: str, principal: Principal) -> InstanceRecord:
        """One of the tenant's, by id or name."""
        ...

    def find(self, instance_id: InstanceId) -> InstanceRecord | None:
        """One of whatever tenant, by id."""
        ...

    def every(self) -> Sequence[InstanceRecord]:
        """All of every tenant."""
        ...

    def hold(self, reference: str, principal: Principal) -> AbstractAsyncContextManager[Life]:
        """Have its turn."""
        ...

    def keep(self, life: Life, record: InstanceRecord) -> None:
        """Replace its record."""
        ...

    def lend(
        self, instance_id: InstanceId
    ) -> AbstractAsyncContextManager[tuple[InstanceRecord, GuardedSandbox]]:
        """Lend its sandbox; it is in use meanwhile."""
        ...


class Ports:
    """Ports of all instances."""

    def __init__(
        self, homes: Homes, *, urls: PortUrls, clock: Clock, is_able: Callable[[str], bool]
    ) -> None:
        self._homes = homes
        self._urls = urls
        self._clock = clock
        self._is_able = is_able
        self._open: dict[InstanceId, dict[int, int]] = {}
        """By instance: open connections, and being made, a port."""
        self._sockets: dict[tuple[InstanceId, int], set[socket.socket]] = {}

    @property
    def urls(self) -> PortUrls:
        """Where exposed ports are."""
        return self._urls

    async def expose(
        self,
        reference: str,
        principal: Principal,
        port: int,
        *,
        protocol: str = "http",
        subdomain: str | None = None,
        token_seconds: float = TOKEN_SECONDS_DEFAULT,
    ) -> Exposure:
        """Let a port be reached, and return an address with a token. May be repeated.

        Raises:
            UnsupportedError: its runtime cannot, or not by that protocol.
            AlreadyExistsError: another port has the subdomain.
            QuotaExceededError: it has too many exposed.
        """
        self._check(port, protocol)
        if subdomain is not None:
            check_subdomain(subdomain)
        record = self._homes.get(reference, principal)
        if not self._is_able(record.runtime or ""):
            raise UnsupportedError(f"ports of the runtime {record.runtime} cannot be reached")
        async with self._homes.hold(record.id, principal) as life:
            record = self._with(life.record, port=port, subdomain=subdomain)
            self._homes.keep(life, record)
        expires_at = self._clock.now() + timedelta(seconds=token_seconds)
        exposed = _exposed(record, port)
        token = exposed.token(record.id, expires_at)
        return replace(self._exposure(record, exposed), token=token, expires_at=expires_at)

    def list(self, reference: str, principal: Principal) -> list[Exposure]:
        """Return the exposed ports of an instance, lowest first."""
        record = self._homes.get(reference, principal)
        return [self._exposure(record, one) for one in record.ports]

    async def close(self, reference: str, principal: Principal, port: int) -> None:
        """Let it be reached no more: its tokens end, and open connections are cut.

        Raises:
            NotFoundError: it is not exposed.
        """
        async with self._homes.hold(reference, principal) as life:
            record = life.record
            _exposed(record, port)
            ports = tuple(one for one in record.ports if one.port != port)
            self._homes.keep(life, replace(record, ports=ports))
        for connection in self._sockets.get((record.id, port), ()):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def at(self, name: str) -> PortAt:
        """Say what the name of a port in a URL means.

        Raises:
            NotFoundError: nothing of that name is exposed.
        """
        own = named_port(name)
        if own is None:
            for record in self._homes.every():
                for one in record.ports:
                    if one.subdomain == name:
                        return PortAt(record, one)
        elif (record := self._homes.find(own[0])) is not None:
            return PortAt(record, _exposed(record, own[1]))
        raise NotFoundError("nothing is exposed at this address")

    def of(self, reference: str, principal: Principal, port: int) -> PortAt:
        """Return an exposed port of an instance of the tenant's.

        Raises:
            NotFoundError: it is not exposed.
        """
        record = self._homes.get(reference, principal)
        return PortAt(record, _exposed(record, port))

    def opened_until(self, at: PortAt, token: str) -> datetime | None:
        """Return until when a token opens a port; None when it does not."""
        return at.exposed.expiry(at.record.id, token, self._clock.now())

    @asynccontextmanager
    async def connect(self, instance_id: InstanceId, port: int) -> AsyncGenerator[socket.socket]:
        """Lend a connection to an exposed port. Closed at the end, whatever happens.

        Raises:
            NotFoundError: it is not exposed, or the instance is gone.
            PortClosedError: nobody listens there.
            ResourceExhaustedError: the instance has too many connections.
        """
        counts = self._open.setdefault(instance_id, {})
        if sum(counts.values()) >= CONNECTIONS_MAX:
            raise ResourceExhaustedError(
                f"this instance has {CONNECTIONS_MAX} connections open already",
                details={"connections_max": CONNECTIONS_MAX},
            )
        counts[port] = counts.get(port, 0) + 1
        try:
            async with self._homes.lend(instance_id) as (record, sandbox):
                _exposed(record, port)
                connection = await sandbox.connect(port)
                with connection, self._cuttable(instance_id, port, connection):
                    yield connection
        finally:
            counts[port] -= 1
            if not any(counts.values()):
                self._open.pop(instance_id, None)

    @contextmanager
    def _cuttable(
        self, instance_id: InstanceId, port: int, connection: socket.socket
    ) -> Generator[None]:
        """While it is open, a close of the port ends it."""
        key = instance_id, port
        self._sockets.setdefault(key, set()).add(connection)
        try:
            yield
        finally:
            self._sockets[key].discard(connection)
            if not self._sockets[key]:
                del self._sockets[key]

    def _check(self, port: int, protocol: str) -> None:
        if not 1 <= port <= _PORT_MAX:
            raise InvalidArgumentError(f"{port} is not a port: 1 to {_PORT_MAX}")
        if protocol == "https" and self._urls.scheme != "https":
            raise UnsupportedError(
                "exposed ports have no https address here",
                hint="set FAAS_PORTS_URL to an https address, or expose it as http",
            )
        if protocol not in ("http", "https"):
            raise UnsupportedError(
                f"ports are exposed by http, with WebSocket, not by {protocol[:32]}",
                details={"supported": ["http", "https"]},
            )

    def _with(self, record: InstanceRecord, *, port: int, subdomain: str | None) -> InstanceRecord:
        known = next((one for one in record.ports if one.port == port), None)
        if subdomain is not None and any(
            one.subdomain == subdomain and (other.id, one.port) != (record.id, port)
            for other in self._homes.every()
            for one in other.ports
        ):
            raise AlreadyExistsError(f"the subdomain {subdomain} is taken")
        if known is None and len(record.ports) >= PORTS_MAX:
            raise QuotaExceededError(
                f"this instance has {PORTS_MAX} ports exposed already",
                hint="close one first",
                details={"ports_max": PORTS_MAX},
            )
        exposed = known or ExposedPort(port, self._clock.now())
        exposed = replace(exposed, subdomain=subdomain or exposed.subdomain)
        others = [one for one in record.ports if one.port != port]
        ports = sorted([*others, exposed], key=lambda one: one.port)
        return replace(record, ports=tuple(ports))

    def _exposure(self, record: InstanceRecord, exposed: ExposedPort) -> Exposure:
        url = self._urls.url(exposed.name(record.id))
        return Exposure(record.id, exposed.port, exposed.exposed_at, url)


def _exposed(record: InstanceRecord, port: int) -> ExposedPort:
    for one in record.ports:
        if one.port == port:
            return one
    raise NotFoundError(
        f"port {port} of this instance is not exposed", hint="expose it first: POST …/ports"
    )
