"""Egress, attacked from inside a real sandbox: public addresses answer, nothing else does.

The internet is a network namespace of the test's own, in which every forbidden address answers too,
and does so when the host asks (`tests.plugins.world`): what is refused here is refused by us.
"""

import asyncio
import subprocess
from dataclasses import replace

import pytest
from tests.plugins.docker import Docker, docker_engine, docker_root
from tests.plugins.embedded import Embedded
from tests.plugins.world import DNS, FORBIDDEN, FORBIDDEN6, HOST_PUBLIC, PORT, PUBLIC, made_world

from faas.ids import new_sandbox_id
from faas.model import NetworkMode
from faas.sandbox.conformance import Bench
from faas.sandbox.protocols import SandboxSpec

__all__ = ["docker_engine", "docker_root"]
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_docker, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def world():
    with made_world() as made:
        yield made


class Egress:
    """A runtime whose sandboxes leave by the test's world."""

    def __init__(self, kind, world, root, directory, engine):
        self.root, self.world, self.directory = root, world, directory
        settings = {"egress_host": world.host_namespace, "egress_dns": ("9.9.9.9", DNS)}
        made = Docker(directory, engine, **settings) if kind == "docker" else None
        self._plugin = made or Embedded(directory, **settings)
        self.runtime = self._plugin.runtime
        self.count = 0

    def next_runtime(self):
        return self._plugin.new_runtime()

    async def bench(self, runtime=None):
        spec = SandboxSpec(new_sandbox_id(), self.root, network=NetworkMode.EGRESS)
        sandbox = await (runtime or self.runtime).create(spec)
        self.count += 1
        place = self.directory / f"out-{self.count}"
        place.mkdir()
        return Bench(sandbox, place)


@pytest.fixture(params=["docker", "embedded"])
async def egress(request, world, docker_root, docker_engine, tmp_path_factory):
    directory = tmp_path_factory.mktemp("egress")
    directory.chmod(0o755)
    made = Egress(request.param, world, docker_root, directory, docker_engine)
    await made.runtime.start()
    yield made
    await made.runtime.aclose()
    async with asyncio.timeout(20):
        # The kernel takes a namespace apart in its own time, and the link into it with it.
        while [name for name in world.links() if name.startswith("fp")]:
            await asyncio.sleep(0.05)
    assert [name for name in world.links() if name.startswith("fe")] == []
    assert "faas_" not in world.run(world.host, "nft", "list", "tables")


@pytest.fixture
async def bench(egress):
    made = await egress.bench()
    yield made
    await made.sandbox.destroy("tested")


async def asks(bench, address, port=PORT):
    """What a server there says to somebody in the sandbox."""
    await bench.run(f"nc -w 2 {address} {port} </dev/null")
    return bench.stdout.decode()


async def answers(bench, *addresses):
    """Which of them say anything, asked all at once."""
    await bench.run(f"for a in {' '.join(addresses)}; do nc -w 2 $a {PORT} </dev/null & done; wait")
    return bench.stdout.decode().splitlines()


def gateway(world):
    lines = world.run(world.host, "ip", "-4", "-o", "addr").splitlines()
    return next(line.split()[3].split("/")[0] for line in lines if " fe" in line)


async def test_a_public_address_answers_and_sees_the_host_only(bench):
    assert await asks(bench, PUBLIC) == f"{PUBLIC} says hello to {HOST_PUBLIC}\n"


async def test_no_private_shared_or_metadata_address_answers(bench):
    assert await answers(bench, *FORBIDDEN) == []
    assert len(await answers(bench, *FORBIDDEN, PUBLIC)) == 1


async def test_the_host_does_not_answer(bench, world):
    assert await answers(bench, gateway(world), HOST_PUBLIC, "127.0.0.1") == []


async def test_there_is_no_ipv6(bench):
    assert await answers(bench, *FORBIDDEN6, "fe80::1%eth0") == []
    await bench.run("cat /proc/net/if_inet6 | grep -v ' lo$'; true")
    assert bench.stdout == b""


async def test_another_sandbox_does_not_answer(egress, bench):
    other = await egress.bench()
    await other.run("ip -4 -o addr show eth0 | awk '{print $4}'")
    address = other.stdout.decode().split("/")[0]
    assert address.startswith("10.")
    server = await other.sh(f"nc -l -p {PORT} -e /bin/echo caught")
    assert await asks(bench, address) == ""
    await server.kill()
    await other.sandbox.destroy("tested")


async def test_it_cannot_change_its_network(bench):
    for attack in (
        "ip route del 10.0.0.0/8", "ip route add 10.1.2.3 dev eth0", "ip link set eth0 down",
        "ip addr add 10.1.2.3/32 dev eth0", "ip link set eth0 address 02:00:00:00:00:01",
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
    ):  # fmt: skip
        assert (await bench.run(attack)).code != 0, attack


async def test_each_of_the_two_walls_holds_alone(egress, bench, world):
    """Without the routes in its namespace, then without the rules of the host."""
    table = next(
        line.split()[-1]
        for line in world.run(world.host, "nft", "list", "tables").splitlines()
        if "faas_" in line
    )
    saved = world.run(world.host, "nft", "list", "table", "inet", table)
    try:
        # Only masquerading is left of the host's rules.
        for chain in ("forward", "first", "input"):
            world.run(world.host, "nft", "flush", "chain", "inet", table, chain)
        assert len(await answers(bench, *FORBIDDEN, PUBLIC)) == 1
    finally:
        again = f"delete table inet {table}\n{saved}"
        argv = ["nsenter", f"--net=/run/netns/{world.host}", "nft", "-f", "-"]
        await asyncio.to_thread(subprocess.run, argv, input=again.encode(), check=True)
    namespace = namespace_of(egress, bench)
    for line in in_namespace(namespace, "ip", "route").splitlines():
        if line.startswith("unreachable"):
            in_namespace(namespace, "ip", "route", "del", *line.split()[:2])
    assert len(await answers(bench, *FORBIDDEN, gateway(world), HOST_PUBLIC, PUBLIC)) == 1


def namespace_of(egress, bench):
    """The network namespace of the sandbox, by the process of its agent."""
    pid_file = egress.directory / "run" / bench.sandbox.id / "pid"
    pid = pid_file.read_text().split()[0] if pid_file.exists() else bench.sandbox._groups.pid
    return f"/proc/{pid}/ns/net"


def in_namespace(namespace, *argv):
    command = ["nsenter", f"--net={namespace}", *argv]
    return subprocess.run(command, stdout=-1, text=True, check=True).stdout


async def test_a_private_name_server_answers_for_names_only(bench):
    assert DNS in await asks(bench, DNS, 53)
    assert await asks(bench, DNS) == ""
    await bench.run("cat /etc/resolv.conf")
    assert bench.stdout.decode() == f"nameserver 9.9.9.9\nnameserver {DNS}\n"


async def test_nobody_outside_can_call_in(bench, world):
    await bench.run("ip -4 -o addr show eth0 | awk '{print $4}'")
    address = bench.stdout.decode().split("/")[0]
    server = await bench.sh(f"nc -l -p {PORT} -e /bin/echo caught")
    route = ["ip", "route", "add", f"{address}/32", "via", HOST_PUBLIC]
    await asyncio.to_thread(world.run, world.beyond, *route)
    ask = ["busybox", "nc", "-w", "1", address, f"{PORT}"]
    argv = ["nsenter", f"--net=/run/netns/{world.beyond}", *ask]
    done = await asyncio.to_thread(subprocess.run, argv, stdin=subprocess.DEVNULL, stdout=-1)
    assert done.stdout == b""
    await server.kill()


async def test_a_host_that_forwards_nothing_by_default_forwards_for_us(egress, world):
    iptables = ("iptables", "-w", "-P", "FORWARD")
    await asyncio.to_thread(world.run, world.host, *iptables, "DROP")
    try:
        bench = await egress.bench()
        assert await asks(bench, PUBLIC) != ""
        assert await asks(bench, FORBIDDEN[0]) == ""
        await bench.sandbox.destroy("tested")
        await egress.runtime.aclose()
        rules = await asyncio.to_thread(world.run, world.host, "iptables", "-w", "-S", "FORWARD")
        assert rules.strip() == "-P FORWARD DROP"
    finally:
        await asyncio.to_thread(world.run, world.host, *iptables, "ACCEPT")


async def test_it_survives_the_gateway_and_goes_with_the_next_one(egress, world):
    bench = await egress.bench()
    await egress.runtime.aclose(leave_running={bench.sandbox.id})
    second = egress.next_runtime()
    await second.start()
    adopted = await second.adopt(bench.sandbox.id)
    assert adopted is not None
    await second.reclaim(keep={bench.sandbox.id})
    again = Bench(adopted, egress.directory)
    assert await asks(again, PUBLIC) != ""
    assert await asks(again, FORBIDDEN[0]) == ""
    new = await egress.bench(second)
    assert await asks(new, PUBLIC) != ""
    for one in (new, again):
        await one.sandbox.destroy("tested")
    await second.aclose()


async def test_what_a_killed_gateway_left_is_taken_away(egress, world):
    bench = await egress.bench()
    await egress.runtime.aclose(leave_running={bench.sandbox.id})
    assert [name for name in world.links() if name.startswith("fe")]
    second = egress.next_runtime()
    await second.start()
    await second.reclaim(keep=frozenset())
    await second.aclose()
    # The fixture looks that nothing is left.


async def test_a_sandbox_without_egress_has_no_link(egress):
    spec = SandboxSpec(new_sandbox_id(), egress.root)
    sandbox = await egress.runtime.create(replace(spec, network=NetworkMode.NONE))
    bench = Bench(sandbox, egress.directory)
    await bench.run("ls /sys/class/net 2>/dev/null || cut -d: -f1 /proc/net/dev | tail -n +3")
    assert bench.stdout.split() in ([b"lo"], [])
    assert await asks(bench, PUBLIC) == ""
    await sandbox.destroy("tested")
