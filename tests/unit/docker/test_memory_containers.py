"""What a container is made with that keeps memory, and whose number it has."""

from pathlib import Path

import pytest

from faas.docker import memory_users
from faas.docker.container import KDAT, MemoryTerms, container_config, reserved_uids
from faas.docker.groups import procs_files
from faas.docker.memory_users import MemoryUsers
from faas.docker.settings import DockerSettings
from faas.embedded.user_slots import FIRST_SLOT, UserSlots, first_uid
from faas.errors import ResourceExhaustedError
from faas.ids import SandboxId
from faas.sandbox.protocols import RootFilesystem, SandboxSpec

SETTINGS = DockerSettings(Path("/data/docker"), "tag", Path("/native"))
SPEC = SandboxSpec(SandboxId("sbx-1"), RootFilesystem("sha256:1", None), keeps_memory=True)


def config(memory: MemoryTerms | None):
    place = Path("/data/docker/sbx-1/agent")
    return container_config(
        SPEC, SETTINGS, image="i", sockets=place, oci_runtime=None, memory=memory
    )


def test_a_container_that_keeps_memory_is_one_users():
    made = config(MemoryTerms(1_879_048_200, Path("/data/criu-kernel/x.kdat")))
    assert made["Entrypoint"][-2:] == ["--user", "1879048200"]
    host = made["HostConfig"]
    assert all("uid=1879048200,gid=1879048200" in options for options in host["Tmpfs"].values())
    assert "CHOWN" not in host["CapAdd"]
    assert "KILL" not in host["CapAdd"]
    [kdat] = [mount for mount in host["Mounts"] if mount["Target"] == KDAT]
    assert kdat["ReadOnly"]


def test_any_other_container_is_as_it_was():
    made = config(None)
    assert "--user" not in made["Entrypoint"]
    assert not any("uid=" in options for options in made["HostConfig"]["Tmpfs"].values())


def test_users_are_nobody_elses(monkeypatch):
    monkeypatch.setattr(memory_users, "COUNT", 3)
    users = MemoryUsers("tag")
    users.reserve(memory_users.FIRST)
    taken = {users.take(), users.take()}
    assert taken == {memory_users.FIRST + 1, memory_users.FIRST + 2}
    with pytest.raises(ResourceExhaustedError):
        users.take()
    users.give_back(memory_users.FIRST)
    assert users.take() == memory_users.FIRST


def test_the_ranges_of_both_runtimes_do_not_meet():
    last = memory_users.FIRST + memory_users.COUNT - 1
    assert last < first_uid(FIRST_SLOT)
    assert last < 1 << 31  # Engines take no more
    assert memory_users.FIRST > 0x7000_0000 - 1
    assert min(first_uid(UserSlots(str(tag)).take()) for tag in range(200)) > last
    assert not {memory_users.FIRST, last} & reserved_uids()


def test_groups_that_are_our_own_too_need_no_move():
    assert procs_files(1 << 22) == ()  # nobody
