"""What a sandbox with `network: egress` may reach, as data and as rules for the kernel.

Everything public over IPv4, and nothing else. Not the host, by any of its addresses; not another
sandbox; no private, shared, link-local, multicast or reserved range; no service that clouds give
their machines. No IPv6 at all: it would need the same list once more, and sandboxes do not miss it.

The rules stand twice: as routes that lead nowhere inside the sandbox's own namespace, where only
root on the host can change them, and in a table of ours on the host. Whoever flushes the host's
rules leaves the first.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

DENIED = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""The registry of special-purpose addresses, and 168.63.129.16, where Azure serves machines."""

FLOWS_MAX = 1_024
"""Connections of one sandbox at a time: the host's table of them is shared with everybody."""

_LOCAL = IPv4Network("127.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Policy:
    """The names and addresses of one egress network."""

    bridge: str
    gateway: IPv4Interface
    """The bridge's own address, and the subnet of the sandboxes."""
    dns: tuple[IPv4Address, ...]
    """Name servers. One with a private address may be asked for names, and for nothing else."""

    @property
    def private_dns(self) -> tuple[IPv4Address, ...]:
        """Those that a rule has to let through."""
        return tuple(one for one in self.dns if any(one in net for net in DENIED))

    @property
    def table(self) -> str:
        """The name of our table."""
        return f"faas_{self.bridge}"

    def unreachable(self) -> tuple[IPv4Network, ...]:
        """What leads nowhere inside the sandbox; its own loopback is no route of ours."""
        return tuple(net for net in DENIED if net != _LOCAL)

    def ruleset(self) -> str:
        """Return the table for `nft -f`; loading it replaces what was there, all or nothing."""
        bridge, table = f'"{self.bridge}"', self.table
        denied = ", ".join(str(net) for net in DENIED)
        names = "".join(
            f"    ip daddr {server} {proto} dport 53 accept\n"
            for server in self.private_dns
            for proto in ("udp", "tcp")
        )
        return f"""\
table inet {table}
delete table inet {table}
table inet {table} {{
  set denied {{
    type ipv4_addr; flags interval
    elements = {{ {denied} }}
  }}
  set flows {{
    type ipv4_addr; size 65535; flags dynamic
  }}
  chain leaving {{
    meta nfproto != ipv4 drop
    ip saddr != {self.gateway.network} drop
{names}    ip daddr @denied drop
  }}
  chain first {{
    type filter hook prerouting priority -150; policy accept;
    iifname {bridge} jump leaving
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname {bridge} jump leaving
    iifname {bridge} oifname {bridge} drop
    iifname {bridge} ct state new add @flows {{ ip saddr ct count over {FLOWS_MAX} }} reject
    oifname {bridge} ct state established,related accept
    oifname {bridge} drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {bridge} drop
  }}
  chain outside {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {self.gateway.network} oifname != {bridge} masquerade
  }}
}}
"""
