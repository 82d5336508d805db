"""The field on one Docker Engine: one command in a fresh container, output read, all removed.

Each peer is opened if it is installed, else named as not measured with what it lacks.
"""

import importlib.util
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from benchmarks.bounded import Acts
from benchmarks.harness import free_port

ECHO = ["/bin/echo", "hi"]
_EXECD = "opensandbox/execd"
_CONFIG = """[server]
host = "127.0.0.1"
port = {port}
[log]
level = "WARNING"
[runtime]
type = "docker"
execd_image = "{execd}"
[store]
type = "sqlite"
path = "{store}"
[docker]
network_mode = "bridge"
"""
"""Its own example for Docker but for the port: one sandbox a container, on the Engine's bridge."""


class Bench(NamedTuple):
    """What every peer is opened on."""

    address: str
    image: str
    scratch: Path


@contextmanager
def open_peers(bench: Bench) -> Iterator[tuple[Acts, list[str]]]:
    """Open all peers there are; also say which are missing and why."""
    acts: Acts = {"docker run --rm (CLI)": _cli(bench)}
    missing: list[str] = []
    with ExitStack() as opened:
        for name, module, open_peer in _PEERS:
            if importlib.util.find_spec(module) is None:
                missing.append(f"{name}: not installed (scripts/bench_setup.sh)")
                continue
            found = open_peer(bench, opened)
            if isinstance(found, str):
                missing.append(f"{name}: {found}")
            else:
                acts |= found
        yield acts, missing


def _cli(bench: Bench) -> Callable[[], object]:
    command = ["docker", "-H", bench.address, "run", "--rm", "--network", "none", bench.image]
    return lambda: subprocess.run([*command, *ECHO], capture_output=True, check=True)


def _docker_py(bench: Bench, _opened: ExitStack) -> Acts:
    import docker  # noqa: PLC0415  an optional peer

    client = docker.DockerClient(base_url=bench.address)
    return {
        "docker-py, containers.run": lambda: client.containers.run(
            bench.image, ECHO, remove=True, network_mode="none"
        )
    }


def _llm_sandbox(bench: Bench, _opened: ExitStack) -> Acts:
    """Its sessions end by `stop`, and what it starts ignores SIGTERM: as it comes, each waits the
    Engine's whole 10 s. A stop signal that is obeyed takes that away, in its favour."""
    import docker  # noqa: PLC0415  an optional peer
    from llm_sandbox import SandboxBackend, SandboxSession  # noqa: PLC0415

    client = docker.DockerClient(base_url=bench.address)

    def one_shot(**more: object) -> None:
        with SandboxSession(
            backend=SandboxBackend.DOCKER, client=client, image=bench.image, lang="python",
            skip_environment_setup=True, keep_template=True,
            runtime_configs={"network_mode": "none", **more},
        ) as session:  # fmt: skip
            answer = session.execute_command("/bin/echo hi")
            if answer.stdout.strip() != "hi":
                raise RuntimeError(f"llm-sandbox said {answer}")

    return {
        "llm-sandbox, docker backend": one_shot,
        "llm-sandbox, docker backend, containers that obey `stop`": lambda: one_shot(
            stop_signal="SIGKILL"
        ),
    }


def _opensandbox(bench: Bench, opened: ExitStack) -> Acts | str:
    program = shutil.which("opensandbox-server", path=os.environ.get("FAAS_BENCH_PEERS", ""))
    if program is None:
        return "the server is not installed (scripts/bench_setup.sh)"
    execd = _execd(bench.address)
    if execd is None:
        return (
            f"the Engine has no image {_EXECD}, which the server copies into each sandbox and "
            "which comes from a registry only; pull it where one can be reached"
        )
    port = free_port()
    config = bench.scratch / "opensandbox.toml"
    config.write_text(
        _CONFIG.format(port=port, execd=execd, store=bench.scratch / "opensandbox.db")
    )
    opened.enter_context(_server(program, config, port, bench.address))
    return {"opensandbox-server, its SDK": _opensandbox_act(bench.image, port)}


def _execd(address: str) -> str | None:
    argv = ["docker", "-H", address, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", _EXECD]
    names = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return max(names, default=None)


@contextmanager
def _server(program: str, config: Path, port: int, address: str) -> Iterator[None]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"DOCKER_HOST": address, "OPENSANDBOX_INSECURE_SERVER": "YES"}
    with config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([program, "--config", config], env=env, stdout=log, stderr=log)
        try:
            _until_healthy(process, f"http://127.0.0.1:{port}/health")
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"opensandbox-server ended with {process.returncode}")
        try:
            with direct.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("opensandbox-server did not become healthy")


def _opensandbox_act(image: str, port: int) -> Callable[[], object]:
    from opensandbox import SandboxSync  # noqa: PLC0415  an optional peer
    from opensandbox.config import ConnectionConfigSync  # noqa: PLC0415
    from opensandbox.transport import RetryPolicy  # noqa: PLC0415

    # Without its retries, half a second apart: it asks for a sandbox that is not up yet.
    connection = ConnectionConfigSync(
        domain=f"127.0.0.1:{port}", protocol="http", retry_policy=RetryPolicy.disabled()
    )

    def one_shot() -> None:
        sandbox = SandboxSync.create(
            image,
            connection_config=connection,
            # As often as its server can be asked: by default it looks five times a second.
            health_check_polling_interval=timedelta(milliseconds=5),
            resource={"cpu": "500m", "memory": "256Mi"},
        )
        try:
            answer = sandbox.commands.run("/bin/echo hi")
            said = "".join(line.text for line in answer.logs.stdout)
            if said.strip() != "hi":
                raise RuntimeError(f"opensandbox said {answer}")
        finally:
            sandbox.kill()
            sandbox.close()

    return one_shot


_PEERS: tuple[tuple[str, str, Callable[[Bench, ExitStack], Acts | str]], ...] = (
    ("docker-py", "docker", _docker_py),
    ("llm-sandbox", "llm_sandbox", _llm_sandbox),
    ("opensandbox-server", "opensandbox", _opensandbox),
)
