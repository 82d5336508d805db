"""Links, addresses and routes by messages to the kernel: a tenth of what starting `ip` costs.

A `Netlink` belongs to the namespace of the thread that opened it (`namespaces.run_in`).
"""

import os
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _REPLACE = 0x1, 0x4, 0x200, 0x400, 0x100
_DUMP = 0x300
_ERROR, _DONE = 2, 3
_NEW_LINK, _DELETE_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_NEW_ROUTE, _GET_ROUTE = 24, 26
_NESTED = 0x8000
_LINK_ADDRESS, _LINK_NAME, _LINK_MASTER, _LINK_PROTINFO, _LINK_INFO, _LINK_NAMESPACE_FD = (
    1,
    3,
    10,
    12,
    18,
    28,
)
_INFO_KIND, _INFO_DATA, _VETH_PEER, _PORT_ISOLATED = 1, 2, 1, 33
_ADDRESS, _LOCAL = 1, 2
_ROUTE_TO, _ROUTE_LINK, _ROUTE_GATEWAY = 1, 4, 5
_UNICAST, _UNREACHABLE, _ON_LINK = 1, 7, 4
_MAIN_TABLE, _BY_ADMINISTRATOR = 254, 4
_UP = 1
_RECEIVE_BYTES = 256 << 10
_SECONDS_MAX = 5.0

Attribute = tuple[int, bytes]


class Netlink:
    """One conversation about one namespace's network."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(_SECONDS_MAX)
        self._socket.bind((0, 0))
        self._last = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def links(self) -> dict[str, int]:
        """Return every link's index by its name."""
        found: dict[str, int] = {}
        for body in self._dump(_GET_LINK, _link()):
            index = struct.unpack_from("=i", body, 4)[0]
            for kind, value in _attributes(body[16:]):
                if kind == _LINK_NAME:
                    found[value.rstrip(b"\0").decode()] = index
        return found

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """Return every IPv4 address with the index of its link."""
        found: list[tuple[int, IPv4Interface]] = []
        for body in self._dump(_GET_ADDRESS, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, index = struct.unpack_from("=BBBBI", body)
            values = dict(_attributes(body[8:]))
            if raw := values.get(_LOCAL) or values.get(_ADDRESS):
                found.append((index, IPv4Interface((IPv4Address(raw), prefix))))
        return found

    def routes(self) -> list[IPv4Network]:
        """Return where the main table leads, the default way not counted."""
        found: list[IPv4Network] = []
        for body in self._dump(_GET_ROUTE, struct.pack("=8BI", socket.AF_INET, *[0] * 7, 0)):
            raw = dict(_attributes(body[12:])).get(_ROUTE_TO)
            if raw and body[4] == _MAIN_TABLE:
                found.append(IPv4Network((IPv4Address(raw), body[1]), strict=False))
        return found

    def add_bridge(self, name: str, *, hardware: bytes) -> None:
        """Make a bridge with that hardware address: its own would change with its ports."""
        info = _nest(_LINK_INFO, (_INFO_KIND, b"bridge"))
        address = (_LINK_ADDRESS, hardware)
        self._change(_NEW_LINK, _link(), _named(name), address, info, flags=_CREATE | _EXCLUSIVE)

    def add_veth(self, name: str, *, bridge: int, peer: str, namespace: int) -> None:
        """Make a pair of links: one end a port of the bridge and up, the other in a namespace."""
        there = _link() + _packed(_named(peer), (_LINK_NAMESPACE_FD, struct.pack("=I", namespace)))
        info = _nest(_LINK_INFO, (_INFO_KIND, b"veth"), _nest(_INFO_DATA, (_VETH_PEER, there)))
        master = (_LINK_MASTER, struct.pack("=I", bridge))
        here = _link(flags=_UP)
        self._change(_NEW_LINK, here, _named(name), master, info, flags=_CREATE | _EXCLUSIVE)

    def isolate_port(self, index: int) -> None:
        """Let a port of a bridge speak with the bridge only, not with other such ports."""
        body = _link(family=socket.AF_BRIDGE, index=index)
        self._change(_SET_LINK, body, _nest(_LINK_PROTINFO | _NESTED, (_PORT_ISOLATED, b"\1")))

    def set_up(self, index: int) -> None:
        """Switch a link on."""
        self._change(_NEW_LINK, _link(index=index, flags=_UP))

    def delete(self, index: int) -> None:
        """Remove a link."""
        self._change(_DELETE_LINK, _link(index=index))

    def add_address(self, index: int, address: IPv4Interface) -> None:
        """Give a link an address."""
        body = struct.pack("=BBBBI", socket.AF_INET, address.network.prefixlen, 0, 0, index)
        raw = address.ip.packed
        flags = _CREATE | _REPLACE
        self._change(_NEW_ADDRESS, body, (_LOCAL, raw), (_ADDRESS, raw), flags=flags)

    def add_route(self, to: IPv4Network, *, gateway: IPv4Address, index: int) -> None:
        """Lead somewhere by a gateway that is on the link, whatever the other routes say."""
        self._change(
            _NEW_ROUTE,
            _route(to, kind=_UNICAST, flags=_ON_LINK),
            (_ROUTE_TO, to.network_address.packed),
            (_ROUTE_GATEWAY, gateway.packed),
            (_ROUTE_LINK, struct.pack("=I", index)),
            flags=_CREATE | _REPLACE,
        )

    def add_unreachable(self, to: IPv4Network) -> None:
        """Lead nowhere."""
        body = _route(to, kind=_UNREACHABLE)
        to_where = (_ROUTE_TO, to.network_address.packed)
        self._change(_NEW_ROUTE, body, to_where, flags=_CREATE | _REPLACE)

    def _change(self, kind: int, body: bytes, *attributes: Attribute, flags: int = 0) -> None:
        sequence = self._send(kind, body + _packed(*attributes), flags | _ACK)
        while True:
            for answer, number, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if number == sequence and answer == _ERROR:
                    _raise_for(payload)
                    return

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        sequence = self._send(kind, body, _DUMP)
        found: list[bytes] = []
        while True:
            for answer, number, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if number != sequence:
                    continue
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    _raise_for(payload)
                    return found
                found.append(payload)

    def _send(self, kind: int, payload: bytes, flags: int) -> int:
        self._last += 1
        length = 16 + len(payload)
        header = struct.pack("=IHHII", length, kind, flags | _REQUEST, self._last, 0)
        self._socket.send(header + payload)
        return self._last


def _raise_for(payload: bytes) -> None:
    number = -struct.unpack_from("=i", payload)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _messages(data: bytes) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    while len(data) >= 16:  # noqa: PLR2004  a header
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
        found.append((kind, sequence, data[16:length]))
        data = data[(length + 3) & ~3 :]
    return found


def _attributes(data: bytes) -> list[Attribute]:
    found: list[Attribute] = []
    while len(data) >= 4:  # noqa: PLR2004  a header
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:  # noqa: PLR2004
            break
        found.append((kind & 0x3FFF, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found


def _link(*, family: int = 0, index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", family, 0, 0, index, flags, flags)


def _route(to: IPv4Network, *, kind: int, flags: int = 0) -> bytes:
    head = (socket.AF_INET, to.prefixlen, 0, 0, _MAIN_TABLE, _BY_ADMINISTRATOR, 0, kind)
    return struct.pack("=8BI", *head, flags)


def _named(name: str) -> Attribute:
    return _LINK_NAME, name.encode() + b"\0"


def _nest(kind: int, *attributes: Attribute) -> Attribute:
    return kind, _packed(*attributes)


def _packed(*attributes: Attribute) -> bytes:
    packed = b""
    for kind, value in attributes:
        packed += struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
    return packed
