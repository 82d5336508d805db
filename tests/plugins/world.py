"""A little internet in network namespaces of a test's own: a host, and behind it the world.

The sandboxes' traffic leaves through the namespace `host`; the namespace `world` is everything past
its uplink. Nothing of it touches the machine's own network.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PUBLIC = "93.184.215.14"
HOST_PUBLIC = "93.184.220.2"
FORBIDDEN = (
    "10.1.2.3", "172.17.0.1", "192.168.1.1", "100.64.0.7", "100.100.100.200", "169.254.169.254",
    "168.63.129.16", "198.18.0.1", "192.0.0.192",
)  # fmt: skip
FORBIDDEN6 = ("2606:4700::1111", "fd00:ec2::254")
DNS = "10.53.0.53"
PORT = 8053
_SERVER = """
import selectors, socket, sys
ready = selectors.DefaultSelector()
for address in sys.argv[1:]:
    for port in (8053, 53):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        ready.register(listener, selectors.EVENT_READ, address)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        caller, who = key.fileobj.accept()
        caller.sendall(f"{key.data} says hello to {who[0]}\\n".encode())
        caller.close()
"""


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], stdout=-1, stderr=-1, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


@dataclass
class World:
    """Two namespaces by name, and the servers that run in them."""

    host: str
    beyond: str
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def host_namespace(self) -> Path:
        return Path("/run/netns", self.host)

    def run(self, namespace: str, *argv: str) -> str:
        argv = ("nsenter", f"--net=/run/netns/{namespace}", *argv)
        return subprocess.run(argv, stdout=-1, text=True, check=True).stdout

    def links(self) -> set[str]:
        found = json.loads(self.run(self.host, "ip", "-j", "link"))
        return {link["ifname"] for link in found}

    def serve(self, namespace: str, *addresses: str) -> None:
        argv = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", _SERVER]
        server = subprocess.Popen([*argv, *addresses], stdout=-1, text=True)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"


@contextmanager
def made_world() -> Iterator[World]:
    """Make it, with something that answers at every address; take it away afterwards."""
    name = f"faas-{os.getpid()}-{secrets.token_hex(3)}"
    world = World(f"{name}-h", f"{name}-w")
    try:
        for namespace in (world.host, world.beyond):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        pair = ("up0", "type", "veth", "peer", "name", "down0", "netns", world.beyond)
        ip("-n", world.host, "link", "add", *pair)
        ip("-n", world.host, "addr", "add", f"{HOST_PUBLIC}/24", "dev", "up0")
        ip("-n", world.host, "addr", "add", "2606:4700::2/64", "dev", "up0", "nodad")
        ip("-n", world.beyond, "addr", "add", "93.184.220.1/24", "dev", "down0")
        ip("-n", world.beyond, "addr", "add", "2606:4700::1/64", "dev", "down0", "nodad")
        ip("-n", world.host, "link", "set", "up0", "up")
        ip("-n", world.beyond, "link", "set", "down0", "up")
        ip("-n", world.host, "route", "add", "default", "via", "93.184.220.1")
        ip("-n", world.host, "-6", "route", "add", "default", "via", "2606:4700::1")
        for address in (PUBLIC, DNS, *FORBIDDEN):
            ip("-n", world.beyond, "addr", "add", f"{address}/32", "dev", "lo")
        for address in FORBIDDEN6:
            ip("-n", world.beyond, "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        world.serve(world.beyond, PUBLIC, DNS, *FORBIDDEN, *FORBIDDEN6)
        world.serve(world.host, "0.0.0.0")
        # What the tests deny would work from the host itself: the world is really there.
        for address in (PUBLIC, *FORBIDDEN):
            assert address in world.run(world.host, "busybox", "nc", "-w", "9", address, f"{PORT}")
        yield world
    finally:
        for server in world.servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        for namespace in (world.host, world.beyond):
            subprocess.run(["ip", "netns", "del", namespace], check=False)
