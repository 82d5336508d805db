"""A shell on a terminal in a container is taken with its memory and typed to elsewhere."""

from collections.abc import Iterator

import pytest
from tests.functional.docker.test_memory import docker_engine, opened
from tests.functional.state.test_memory_terminals import SLEEP, typed
from tests.plugins.live_gateway import LiveGateway
from tests.plugins.wire_calls import Calls

__all__ = ["docker_engine"]
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_docker,
    pytest.mark.needs_root,
    pytest.mark.timeout(180),
]


@pytest.fixture(params=["crun", "runc"])
def gateway(docker_engine: str, request: pytest.FixtureRequest) -> Iterator[LiveGateway]:
    with opened(docker_engine, FAAS_DOCKER_OCI_RUNTIME=request.param) as made:
        yield made


def test_children_of_one_shell_go_on_with_a_terminal_each(gateway: LiveGateway) -> None:
    call = Calls(gateway.url)
    shell = {"memory": True, "mode": "checkpointed", "tty": True, "stdin_open": True}
    shell |= {"timeout_ms": 100_000, "wait": False}
    body = {**shell, "command": ["sh", "-i"], "runtime": "docker", "image": "alpine"}
    made = call.post("/api/v1/execute", body)["execution_id"]
    typed(gateway, made, "word=kept; stty rows 40 cols 99; echo re''ady\n", "ready")
    kept = call.post(f"/api/v1/executions/{made}/checkpoint", {})
    children = [
        call.post("/api/v1/execute", {**shell, "snapshot_id": kept["id"]})["execution_id"]
        for _ in range(2)
    ]
    for one in (*children, made):
        said = typed(gateway, one, "echo $word-$((6*7)); stty size; tty\n", "/dev/pts/")
        assert "kept-42" in said
        assert "40 99" in said
        typed(gateway, one, SLEEP, "begun")
        typed(gateway, one, "\x03", "^C")
        typed(gateway, one, "echo code $?\n", "code 130")
    for one in (*children, made):
        call.post(f"/api/v1/executions/{one}/cancel")
