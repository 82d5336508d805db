"""The Engine goes, comes back, is slow or full under what runs: nothing is lost or left."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.plugins.docker import REPOSITORY, Docker, docker_root, engine_directory, script

from faas.assembly import open_platform
from faas.config import Settings
from faas.errors import FaasError, RuntimeUnavailableError, SandboxBrokenError, UnavailableError
from faas.ids import new_sandbox_id
from faas.images import ImageStore
from faas.model import ExecutionSpec, RuntimeChoice
from faas.sandbox.conformance import Bench
from faas.sandbox.protocols import RootFilesystem, SandboxSpec
from faas.tenancy import LOCAL_PRINCIPAL

__all__ = ["docker_root"]
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_docker, pytest.mark.timeout(240)]

PATIENCE_SECONDS = 90.0
SLOW = "echo one; sleep 3; echo two"


class FragileEngine:
    """An Engine of this test's own, to be ended in every way."""

    def __init__(self, name: str) -> None:
        self.directory = engine_directory() / name
        self._arguments: tuple[str, ...] = ()
        self.address = ""

    def start(self, *arguments: str) -> str:
        self._arguments = arguments or self._arguments
        self.address = self._script("start", *self._arguments)
        return self.address

    def stop(self) -> None:
        self._script("stop")

    def kill(self) -> None:
        os.kill(int((self.directory / "engine.pid").read_text()), signal.SIGKILL)

    def _script(self, *arguments: str) -> str:
        return script("docker_engine.sh", *arguments, FAAS_TEST_DOCKER=str(self.directory))


@contextmanager
def fragile(name: str) -> Iterator[FragileEngine]:
    engine = FragileEngine(name)
    try:
        yield engine
    finally:
        # What was killed, or lets its containers live, is brought back to take them along.
        docker = ["docker", "-H", engine.start()]
        left = subprocess.run([*docker, "ps", "-aq"], stdout=-1, text=True, check=True).stdout
        if left:
            subprocess.run([*docker, "rm", "-f", *left.split()], stdout=-1, check=True)
        engine.stop()


@pytest.fixture(scope="module")
def engine():
    with fragile("fragile") as made:
        yield made


@asynccontextmanager
async def runtime_on(engine: FragileEngine, directory: Path):
    made = Docker(directory, engine.address)
    await made.runtime.start()
    try:
        yield made
    finally:
        await made.runtime.aclose()
    assert made.containers(label="faas.data") == []


async def bench_on(made: Docker, root: RootFilesystem, directory: Path, name: str) -> Bench:
    place = directory / name
    place.mkdir()
    return Bench(await made.runtime.create(SandboxSpec(new_sandbox_id(), root)), place)


async def test_a_killed_engine_takes_no_command_with_it(engine, docker_root, tmp_path) -> None:
    await asyncio.to_thread(engine.start)
    async with runtime_on(engine, tmp_path / "data") as made:
        bench = await bench_on(made, docker_root, tmp_path, "a")
        process = await bench.sh(SLOW)
        engine.kill()
        async with asyncio.timeout(PATIENCE_SECONDS):
            end = await process.wait()
        assert (end.code, bench.stdout) == (0, b"one\ntwo\n")
        with pytest.raises(RuntimeUnavailableError, match="does not answer"):
            await made.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
        await bench.sandbox.destroy("the Engine is away")
        await asyncio.to_thread(engine.start)
        again = await bench_on(made, docker_root, tmp_path, "b")
        assert (await again.run("echo back")).code == 0
        assert len(made.containers()) == 1
        await again.sandbox.destroy("tested")


async def test_an_engine_stopped_in_order_ends_its_containers_and_we_say_so(
    engine, docker_root, tmp_path
) -> None:
    await asyncio.to_thread(engine.start)
    async with runtime_on(engine, tmp_path / "data") as made:
        bench = await bench_on(made, docker_root, tmp_path, "a")
        process = await bench.sh("sleep 600")
        await asyncio.to_thread(engine.stop)
        with pytest.raises(SandboxBrokenError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await process.wait()
        assert not bench.sandbox.is_alive
        await bench.sandbox.destroy("dead")
        report = await made.runtime.probe()
        assert not report.is_available
        assert report.hint
        await asyncio.to_thread(engine.start)
        assert (await made.runtime.probe()).is_available
        assert made.containers() == []


async def test_with_live_restore_commands_do_not_notice(docker_root, tmp_path) -> None:
    with fragile("living") as engine:
        await asyncio.to_thread(engine.start, "--live-restore")
        async with runtime_on(engine, tmp_path / "data") as made:
            bench = await bench_on(made, docker_root, tmp_path, "a")
            process = await bench.sh(SLOW)
            await asyncio.to_thread(engine.stop)
            assert (await bench.run("echo three", is_exclusive=False)).code == 0
            await asyncio.to_thread(engine.start)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert (await process.wait()).code == 0
            other = await bench_on(made, docker_root, tmp_path, "b")
            assert (await other.run("echo four")).code == 0
            for one in (bench, other):
                await one.sandbox.destroy("tested")


async def test_pools_survive_a_restart_and_the_other_runtime_goes_on(engine, tmp_path) -> None:
    address = await asyncio.to_thread(engine.start)
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("embedded", "docker"), docker_host=address,
        default_image="alpine", pool_size=2,
    )  # fmt: skip
    archive = REPOSITORY / await asyncio.to_thread(script, "test_images.sh", "alpine")
    await ImageStore(tmp_path / "data" / "images").import_("alpine", archive)
    seen: list[str] = []

    async with open_platform(settings) as platform:

        async def run(runtime: RuntimeChoice) -> None:
            spec = ExecutionSpec(("/bin/echo", "hi"), "alpine", runtime=runtime)
            record = await platform.executor.execute(spec, LOCAL_PRINCIPAL)
            assert record.result is not None
            assert record.result.stdout == b"hi\n"
            seen.append(record.result.sandbox_id)

        for _ in range(3):
            await run(RuntimeChoice.DOCKER)
        await asyncio.to_thread(engine.stop)
        with pytest.raises(UnavailableError):
            await run(RuntimeChoice.DOCKER)
        await run(RuntimeChoice.EMBEDDED)
        await asyncio.to_thread(engine.start)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    await run(RuntimeChoice.DOCKER)
                    break
                except FaasError:
                    await asyncio.sleep(0.2)
        await asyncio.gather(*(run(RuntimeChoice.DOCKER) for _ in range(4)))
        tag = platform.data_dir.tag
    assert len(seen) == len(set(seen))
    argv = ["docker", "-H", address, "ps", "-aq", f"--filter=label=faas.data={tag}"]
    left = await asyncio.to_thread(subprocess.run, argv, stdout=-1, check=True)
    assert left.stdout == b""


@asynccontextmanager
async def slow_proxy(address: str, path: Path, *, seconds: float):
    """Pass everything on to the Engine, a while later."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(seconds)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        try:
            await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))
        except (OSError, asyncio.CancelledError):
            for one in (writer, theirs[1]):
                one.close()

    server = await asyncio.start_unix_server(serve, path)
    yield f"unix://{path}"
    server.close()


async def test_an_engine_that_answers_slowly_is_waited_for_and_can_be_given_up(
    engine, docker_root, tmp_path
) -> None:
    address = await asyncio.to_thread(engine.start)
    async with slow_proxy(address, tmp_path / "slow.sock", seconds=0.3) as slow:
        made = Docker(tmp_path / "data", slow)
        await made.runtime.start()
        bench = await bench_on(made, docker_root, tmp_path, "a")
        assert (await bench.run("echo patience")).code == 0
        for patience in (0.1, 0.5, 1.0, 1.4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(patience):
                    await made.runtime.create(SandboxSpec(new_sandbox_id(), docker_root))
            made.engine = address
            assert len(made.containers()) == 1
        await bench.sandbox.destroy("tested")
        await made.runtime.aclose()
        assert made.containers(label="faas.data") == []


async def test_a_full_disk_is_said_and_leaves_nothing(docker_root, tmp_path) -> None:
    with fragile("full") as engine:
        data = engine.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(data)]
        await asyncio.to_thread(subprocess.run, mount, check=True)
        try:
            await asyncio.to_thread(engine.start)
            async with runtime_on(engine, tmp_path / "data") as made:
                bench = await bench_on(made, docker_root, tmp_path, "a")
                tree = tmp_path / "tree"
                tree.mkdir()
                (tree / "big").write_bytes(os.urandom(32 << 20))
                big = RootFilesystem(digest=f"sha256:{made.tag}{'3' * 56}", path=tree)
                with pytest.raises(RuntimeUnavailableError, match="full"):
                    await made.runtime.create(SandboxSpec(new_sandbox_id(), big))
                assert (await bench.run("echo fine")).code == 0
                other = await bench_on(made, docker_root, tmp_path, "b")
                for one in (bench, other):
                    await one.sandbox.destroy("tested")
            await asyncio.to_thread(engine.stop)
        finally:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(data)], check=False)
