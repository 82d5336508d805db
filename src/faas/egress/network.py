"""One bridge of ours on the host, and a link from it into the namespace of each sandbox.

Opened by the first sandbox that asks for it, so a host that never offers egress is never touched.
The kernel keeps the state: a link dies with the namespace it leads into, so nothing is recorded for
a sandbox and nothing can be left over; bridge and rules outlive `kill -9`, go on to hold, and are
taken up or away by the next start (`reclaim`). A sandbox has its address to itself (`policy`), and
cannot speak with another: the ports of the bridge are isolated.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TypeVar

from faas.egress import firewall
from faas.egress.namespaces import run_in
from faas.egress.netlink import Netlink
from faas.egress.policy import Policy
from faas.errors import ResourceExhaustedError, RuntimeUnavailableError

_SUBNETS = IPv4Network("10.192.0.0/10")
_PREFIX = 22
"""A thousand sandboxes; a bridge takes as many ports."""
_LINK = "eth0"
_HARDWARE = bytes.fromhex("02faa5000001")
"""Of every bridge of ours; each is alone on its wire."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class EgressNetwork:
    """The network of one runtime. `attach` is all a runtime needs; see the module."""

    def __init__(
        self, name: str, *, dns: tuple[str, ...], host_namespace: Path | None = None
    ) -> None:
        """Name it; nothing is made. `name` has at most ten characters and is this runtime's own.

        `host_namespace` is where the bridge lives; None is where this process is.
        """
        self._bridge = f"fe{name}"
        self._port = f"fp{name}"
        self._dns = tuple(IPv4Address(server) for server in dns)
        self._host = host_namespace
        self._policy: Policy | None = None
        self._opening = asyncio.Lock()
        self._last = 1

    @property
    def is_available(self) -> bool:
        """Whether this host can have it: it takes root and the program `nft`."""
        return os.geteuid() == 0 and firewall.is_installed()

    @property
    def resolv_conf(self) -> str:
        """The name servers, as a program reads them."""
        return "".join(f"nameserver {server}\n" for server in self._dns)

    async def attach(self, namespace: int) -> IPv4Address:
        """Give the network namespace of a sandbox its link; return its address.

        Raises:
            ResourceExhaustedError: as many sandboxes as it has addresses are attached.
            RuntimeUnavailableError: the host refused.
        """
        policy = await self._opened()
        return await self._off_loop(partial(self._attach, policy, namespace))

    async def reclaim(self) -> None:
        """Take up what sandboxes that are kept still use; take away what none does."""
        if not self.is_available or self._policy is not None:
            return
        is_used = await self._off_loop(self._is_used)
        if is_used:
            await self._opened()
        elif is_used is not None:
            await self._off_loop(self._remove)

    async def aclose(self, *, sandboxes_stay: bool = False) -> None:
        """Take everything away, unless a sandbox that stays uses it.

        A link may outlive its namespace for a moment, so the links alone do not tell.
        """
        if self._policy is None:
            return
        if not (sandboxes_stay and await self._off_loop(self._is_used)):
            await self._off_loop(self._remove)
        self._policy = None

    async def _opened(self) -> Policy:
        async with self._opening:
            if self._policy is None:
                self._policy = await self._off_loop(self._open)
            return self._policy

    async def _off_loop(self, work: Callable[[], T]) -> T:
        """Do it in a thread in the host's namespace; a cancelled caller waits until it is over."""
        doing = asyncio.ensure_future(asyncio.to_thread(self._on_host, work))
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait({doing})
            doing.exception()
            raise
        except OSError as failure:
            raise RuntimeUnavailableError(
                f"the kernel refused a network link: {failure.strerror}",
                hint="modprobe bridge veth nf_tables; `faas doctor`",
            ) from failure

    def _on_host(self, work: Callable[[], T]) -> T:
        if self._host is None:
            return work()
        namespace = os.open(self._host, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return run_in(namespace, work)
        finally:
            os.close(namespace)

    def _open(self) -> Policy:
        """Make bridge and rules, or take up those there are; it is up only when they hold."""
        if not firewall.is_installed():
            raise RuntimeUnavailableError(
                "the network egress needs nft", hint="apt-get install nftables"
            )
        with Netlink() as netlink:
            links = netlink.links()
            if self._bridge not in links:
                netlink.add_bridge(self._bridge, hardware=_HARDWARE)
            index = netlink.links()[self._bridge]
            had = [address for at, address in netlink.addresses() if at == index]
            gateway = had[0] if had else self._free_subnet(netlink)
            policy = Policy(self._bridge, gateway, self._dns)
            firewall.load(policy.ruleset())
            firewall.permit(self._bridge)
            _set(f"ipv6/conf/{self._bridge}/disable_ipv6", "1")
            _set("ipv4/ip_forward", "1")
            if not had:
                netlink.add_address(index, gateway)
            netlink.set_up(index)
        return policy

    def _free_subnet(self, netlink: Netlink) -> IPv4Interface:
        """Choose by the name, so that it stays the same; the next one where the host has a way."""
        taken = netlink.routes()
        count = 1 << (_PREFIX - _SUBNETS.prefixlen)
        first = sum(self._bridge.encode()) * 31 % count
        for turn in range(count):
            start = int(_SUBNETS.network_address) + ((first + turn) % count << (32 - _PREFIX))
            subnet = IPv4Network((start, _PREFIX))
            if not any(subnet.overlaps(other) for other in taken):
                return IPv4Interface((start + 1, _PREFIX))
        raise RuntimeUnavailableError(
            f"every subnet of {_SUBNETS} is in use on this host", hint="ip -4 route"
        )

    def _attach(self, policy: Policy, namespace: int) -> IPv4Address:
        subnet = policy.gateway.network
        with Netlink() as netlink:
            bridge = netlink.links().get(self._bridge)
            if bridge is None:
                self._policy = None
                raise RuntimeUnavailableError("the bridge of the network egress was removed")
            for _ in range(subnet.num_addresses - 3):
                self._last = 2 + (self._last - 1) % (subnet.num_addresses - 3)
                port = f"{self._port}{self._last:03x}"
                if _add_port(netlink, port, bridge, namespace):
                    break
            else:
                raise ResourceExhaustedError("no address is free in the network egress")
            netlink.isolate_port(netlink.links()[port])
        address = subnet.network_address + self._last
        run_in(namespace, partial(_configure, policy, address))
        return address

    def _is_used(self) -> bool | None:
        """Whether sandboxes hang on the bridge; None when there is none."""
        with Netlink() as netlink:
            links = netlink.links()
        if self._bridge not in links:
            return None
        return any(name.startswith(self._port) for name in links)

    def _remove(self) -> None:
        with Netlink() as netlink:
            index = netlink.links().get(self._bridge)
            if index is not None:
                netlink.delete(index)
        firewall.withdraw(self._bridge)
        firewall.remove(f"faas_{self._bridge}")


def _add_port(netlink: Netlink, name: str, bridge: int, namespace: int) -> bool:
    """Make the link; False when another sandbox has that address."""
    try:
        netlink.add_veth(name, bridge=bridge, peer=_LINK, namespace=namespace)
    except OSError as failure:
        if failure.errno == errno.EEXIST:
            return False
        raise
    return True


def _configure(policy: Policy, address: IPv4Address) -> None:
    """In the sandbox's namespace: first what leads nowhere, then the way out."""
    _set(f"ipv6/conf/{_LINK}/disable_ipv6", "1")
    gateway, everywhere = policy.gateway.ip, IPv4Network("0.0.0.0/0")
    with Netlink() as netlink:
        index = netlink.links()[_LINK]
        for denied in policy.unreachable():
            netlink.add_unreachable(denied)
        netlink.add_address(index, IPv4Interface((address, 32)))
        netlink.set_up(index)
        for server in policy.private_dns:
            netlink.add_route(IPv4Network(server), gateway=gateway, index=index)
        netlink.add_route(everywhere, gateway=gateway, index=index)


def _set(name: str, value: str) -> None:
    """Write a kernel setting of this thread's namespace; what is not built in needs no setting."""
    path = Path("/proc/sys/net", name)
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)
