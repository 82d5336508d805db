"""A real Docker Engine for tests, ours alone, and the Docker runtime on it."""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faas.images import ImageStore

REPOSITORY = Path(__file__).parents[2]


def script(name: str, *arguments: str, **environment: str) -> str:
    """Run one of the project's scripts and return the last line it printed."""
    argv = [str(REPOSITORY / "scripts" / name), *arguments]
    env = os.environ | environment
    done = subprocess.run(argv, stdout=-1, text=True, check=False, cwd=REPOSITORY, env=env)
    if done.returncode != 0:
        pytest.skip(f"scripts/{name} {' '.join(arguments)} failed")
    return (done.stdout.strip() or name).splitlines()[-1]


@pytest.fixture(scope="session")
def docker_engine() -> str:
    """The address of the Engine; it stays up after the tests, for the next run."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return script("docker_engine.sh", "start")


@pytest.fixture(scope="session")
def remapping_engine() -> Iterator[str]:
    """An Engine that remaps user ids; it ends with the tests."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with another_engine("remap", "--userns-remap=nobody:nogroup") as address:
        yield address


@contextmanager
def another_engine(name: str, *arguments: str) -> Iterator[str]:
    """An Engine beside the usual one, with arguments of its own."""
    where = {"FAAS_TEST_DOCKER": str(engine_directory() / name)}
    try:
        yield script("docker_engine.sh", "start", *arguments, **where)
    finally:
        script("docker_engine.sh", "stop", **where)


def engine_directory() -> Path:
    """Where the usual Engine lives; others live below it."""
    return Path(os.environ.get("FAAS_TEST_DOCKER") or REPOSITORY / ".faas" / "docker")


@pytest.fixture(scope="session")
def docker_root(tmp_path_factory):
    """The busybox image, imported."""
    archive = REPOSITORY / script("test_images.sh", "alpine")
    store = ImageStore(tmp_path_factory.mktemp("docker-images"))
    asyncio.run(store.import_("alpine", archive))
    return store.resolve("alpine")


class Docker:
    """A runtime and the paths it was given."""

    def __init__(self, data_dir: Path, engine: str, **settings: object) -> None:
        self.data_dir = data_dir
        self.engine = engine
        self._settings = settings
        self.tag = secrets.token_hex(4)
        self.runtime = self.new_runtime()

    def new_runtime(self):
        """Make another one on the same data, as a gateway's next start does."""
        from faas.docker.runtime import DockerRuntime
        from faas.docker.settings import DockerSettings
        from faas.embedded.settings import packaged_binary

        return DockerRuntime(
            DockerSettings(
                work_dir=self.data_dir / "docker",
                tag=self.tag,
                binary=packaged_binary(),
                host=self.engine,
                **self._settings,
            )
        )

    def containers(self, *, label: str = "faas.sandbox") -> list[str]:
        """The containers that carry our tag and that label, as the Docker CLI sees them."""
        filters = [f"--filter=label=faas.data={self.tag}", f"--filter=label={label}"]
        argv = ["docker", "-H", self.engine, "ps", "-aq", *filters]
        return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.split()


@pytest.fixture
async def docker(docker_engine):
    """A started Docker runtime; no container and no directory is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="faas-docker-"))
    made = Docker(directory, docker_engine)
    await made.runtime.start()
    yield made
    await made.runtime.aclose()
    left = made.containers(label="faas.data")
    work = [path.name for path in (directory / "docker").iterdir()]
    shutil.rmtree(directory)
    assert (left, work) == ([], [])
