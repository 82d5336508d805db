"""The native program, built as users get it and again with sanitizers, and ways to start it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.native.plans import Launcher, Sandbox, usual
from tests.native.wire import ConnectionEndedError, Host, Run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from build_native import build, build_sanitized, native_arch  # noqa: E402

SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1",
}


@pytest.fixture(scope="session")
def released() -> Path:
    """The binary users get."""
    return build(native_arch(), ROOT / "src" / "faas" / "_native" / f"faas-native-{native_arch()}")


@pytest.fixture(scope="session")
def sanitized() -> Path:
    """The same source with ASan and UBSan; any finding ends the process, which the tests notice."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed: apt-get install gcc")
    return build_sanitized(ROOT / "native" / "build" / "faas-native-sanitized")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a sandbox's first process, nobody there, may pass through."""
    with tempfile.TemporaryDirectory(prefix="faas-native-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


class Agent:
    """A running agent that is not PID 1."""

    def __init__(self, binary: Path, place: Path) -> None:
        self.path = place / "agent.sock"
        self.errors = (place / "agent.log").open("wb+")
        argv = [binary, "agent", "--listen", self.path, "--fake-init"]
        env = {**os.environ, **SANITIZER_ENV}
        self.process = subprocess.Popen(argv, stderr=self.errors, env=env, start_new_session=True)
        self.place = place
        while not self.path.exists():
            assert self.process.poll() is None
            time.sleep(0.005)
        self.hosts: list[Host] = []

    def connect(self, *, greet: bool = True) -> Host:
        retried = (ConnectionEndedError,) if greet else ()
        for _ in range(400):
            with contextlib.suppress(ConnectionRefusedError, *retried):
                self.hosts.append(Host(self.path, greet=greet))
                return self.hosts[-1]
            time.sleep(0.005)
        raise TimeoutError

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        said = Path(self.errors.name).read_bytes()
        ended = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.errors.close()
        assert ended is None, f"the agent died: {said.decode(errors='replace')}"
        assert b"ERROR" not in said
        assert b"runtime error" not in said


@pytest.fixture(params=["released", "sanitized"])
def binary(request: pytest.FixtureRequest) -> Path:
    """Every test runs on both builds."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def agent(binary: Path, place: Path) -> Iterator[Agent]:
    """A fresh agent under `--fake-init`; it must still live when the test is over."""
    started = Agent(binary, place)
    yield started
    started.close()


@pytest.fixture
def host(agent: Agent) -> Host:
    """A greeted connection to it."""
    return agent.connect()


@pytest.fixture
def run(host: Host, place: Path) -> Callable[..., Run]:
    """Start a command: `run("sh", "-c", "exit 3", flags=…)`."""

    def start(*argv: str | bytes, **options: object) -> Run:
        return Run(host, place, argv, **options)  # type: ignore[arg-type]

    return start


@pytest.fixture
def launcher(binary: Path, place: Path) -> Iterator[Launcher]:
    """A launcher; the sandboxes of a test are killed after it, and it must still live."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Launcher(binary, place, env={**os.environ, **SANITIZER_ENV})
    yield made
    alive = made.process.poll() is None
    with contextlib.suppress(OSError):
        made.close()
    for pid in made.launched:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert alive, "the launcher died"


class Inside:
    """A launched sandbox and a connection to its agent."""

    def __init__(self, launcher: Launcher, sandbox: Sandbox) -> None:
        self.launcher, self.sandbox = launcher, sandbox
        self.host = Host(sandbox.path)
        launcher.closing.append(self.host.close)

    def run(self, *argv: str, **options: object) -> Run:
        return Run(self.host, self.launcher.directory, argv, **{"uid": 0, "gid": 0, **options})  # type: ignore[arg-type]

    def sh(self, script: str, **options: object) -> str:
        """Run a script to its end; its output, both streams."""
        command = self.run("sh", "-c", script, **options)
        command.wait()
        return (command.output + command.errors).decode(errors="replace")


@pytest.fixture
def inside(launcher: Launcher) -> Inside:
    """A usual sandbox."""
    return Inside(launcher, launcher.launch(usual()))
