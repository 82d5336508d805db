"""A real Docker Engine for tests, ours alone, and the Docker runtime on it."""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from faas.images import ImageStore

REPOSITORY = Path(__file__).parents[2]


def script(name: str, *arguments: str) -> str:
    """Run one of the project's scripts and return the last line it printed."""
    argv = [str(REPOSITORY / "scripts" / name), *arguments]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY)
    if done.returncode != 0:
        pytest.skip(f"scripts/{name} {' '.join(arguments)} failed")
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def docker_engine() -> str:
    """The address of the Engine; it stays up after the tests, for the next run."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return script("docker_engine.sh", "start")


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
