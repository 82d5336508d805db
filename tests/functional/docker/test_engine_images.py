"""Images of a real Engine: found, pulled from a real registry, built, removed; who may run them."""

import asyncio
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plugins.docker import docker_engine, docker_root, script
from tests.plugins.registry import (
    PASSWORD,
    Registry,
    free_port,
    needs_registry,
    private_registry,
    registry,
)

from faas.assembly import Platform, open_platform
from faas.config import Settings
from faas.errors import (
    ImageNotFoundError,
    InvalidImageError,
    PermissionDeniedError,
    RuntimeUnavailableError,
    WrongStateError,
)
from faas.events import Event, ImagePulled, ImagePullProgressed, ImagePullStarted
from faas.executor.images import ImageAsk
from faas.ids import TenantId
from faas.images import ImageOrder, RegistryLogin
from faas.model import ExecutionRecord, ExecutionSpec, PullPolicy, RuntimeChoice
from faas.sandbox.image_keeper import BuildOrder
from faas.sandbox.protocols import RootFilesystem
from faas.tenancy import LOCAL_PRINCIPAL, Principal, Scope, Tenant

__all__ = ["docker_engine", "docker_root", "private_registry", "registry"]
pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(240), needs_registry]

OTHER = Principal(Tenant(TenantId("other")), frozenset({Scope.EXECUTE}))
LOGIN = RegistryLogin("faas", PASSWORD)


class World:
    """A platform on the Engine, what it published, and the Engine by Docker's own client."""

    def __init__(self, platform: Platform, engine: str, home: Path) -> None:
        self.platform = platform
        self.images = platform.images
        self.engine = engine
        self.home = home
        self.events: list[Event] = []
        platform.events.listen(self.events.append)

    def cli(self, *arguments: str) -> str:
        argv = ["docker", "-H", self.engine, "--config", str(self.home), *arguments]
        return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.strip()

    async def run(
        self, image: str, script: str = "cat /mark", *, who: Principal = LOCAL_PRINCIPAL,
        runtime: RuntimeChoice = RuntimeChoice.DOCKER, ask: ImageAsk | None = None,
        policy: PullPolicy = PullPolicy.MISSING,
    ) -> ExecutionRecord:  # fmt: skip
        spec = ExecutionSpec(("/bin/sh", "-c", script), image, runtime=runtime, pull_policy=policy)
        return await self.platform.executor.execute(spec, who, ask=ask)

    def order(self, image: str, **more: object) -> ImageOrder:
        asked = {"tenant": LOCAL_PRINCIPAL.tenant.id, "runtime": "docker", **more}
        return ImageOrder(image, **asked)

    async def pull(self, image: str, **more: object) -> RootFilesystem:
        return await self.images.provide(self.order(image, policy=PullPolicy.ALWAYS, **more))

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def opened(
    engine: str, directory: Path, *registries: str, **more: object
) -> AsyncIterator[World]:
    settings = Settings(
        data_dir=directory / "data", runtimes=("docker",), docker_host=engine,
        disable_prewarm=True, parked_max=0, pull_registries=registries, **more,
    )  # fmt: skip
    async with open_platform(settings) as platform:
        yield World(platform, engine, directory / "docker-home")


@pytest.fixture(scope="session")
def base(docker_engine: str) -> str:
    """The busybox image, as the Engine's own `faas-test-base`."""
    archive = Path(__file__).parents[3] / script("test_images.sh", "alpine")
    argv = ["docker", "-H", docker_engine, "import", str(archive), "faas-test-base:1"]
    return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.strip()


def made(engine: str, base: str, name: str, mark: str, *lines: str) -> str:
    """Build an image beside ours, and return its id."""
    text = "\n".join([f"FROM {base}", f"RUN echo {mark} > /mark", *lines])
    argv = ["docker", "-H", engine, "build", "-q", "-t", name, "-"]
    environment = {"DOCKER_BUILDKIT": "0", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(
        argv, input=text, stdout=-1, stderr=-1, text=True, check=True, env=environment
    )
    return done.stdout.strip()


async def publish(
    engine: str, registry: Registry, base: str, name: str, mark: str, *, keep: bool = False
) -> str:
    """Put an image into a registry, not keeping it in the Engine; return its id."""
    whole = registry.name(name)
    found = await asyncio.to_thread(made, engine, base, whole, mark)

    def push() -> None:
        argv = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        if registry.is_private:
            argv += ["--dest-creds", f"faas:{PASSWORD}"]
        daemon = ["--src-daemon-host", engine, f"docker-daemon:{whole}", f"docker://{whole}"]
        subprocess.run([*argv, *daemon], check=True, stdin=subprocess.DEVNULL)
        if not keep:
            remove = ["docker", "-H", engine, "rmi", whole]
            subprocess.run(remove, check=True, stdout=subprocess.DEVNULL)

    await asyncio.to_thread(push)
    return found


@pytest.fixture
async def world(docker_engine: str, registry: Registry, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(docker_engine, tmp_path, registry.address) as one:
        yield one


async def dropped(world: World, name: str) -> None:
    """Remove an image; containers of runs that were answered go a moment later."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await world.images.remove(name)
            except WrongStateError:
                await asyncio.sleep(0.1)


def stdout(record: ExecutionRecord) -> str:
    assert record.result is not None
    assert record.result.exit_code == 0, record.result.stderr
    return record.result.stdout.decode().strip()


async def test_an_image_the_engine_has_runs_as_it_is(world: World, base: str) -> None:
    name = f"faas-test-own:{world.platform.data_dir.tag}"
    lines = ("ENV A=from-image", "WORKDIR /etc", "VOLUME /data")
    digest = await asyncio.to_thread(made, world.engine, base, name, "own", *lines)
    record = await world.run(name, "cat /mark; echo $A; pwd; echo x > /data/f && cat /data/f")
    assert stdout(record).split() == ["own", "from-image", "/etc", "x"]
    assert record.result is not None
    assert record.result.image_digest == digest
    assert not world.told(ImagePullStarted)
    again = await world.run(digest, "cat /mark", policy=PullPolicy.NEVER)
    assert stdout(again) == "own"
    await dropped(world, name)


async def test_a_missing_image_is_pulled_and_its_digest_is_what_ran(
    world: World, registry: Registry, base: str
) -> None:
    digest = await publish(world.engine, registry, base, "app:1", "one")
    record = await world.run(registry.name("app:1"))
    assert (stdout(record), record.result and record.result.image_digest) == ("one", digest)
    assert [event.digest for event in world.told(ImagePulled)] == [digest]
    assert world.told(ImagePullProgressed)
    listed = {one.reference: one for one in await world.images.list()}[registry.name("app:1")]
    assert (listed.digest, listed.keeper) == (digest, "docker")
    assert listed.manifest_digest
    pinned = registry.name(f"app@{listed.manifest_digest}")
    assert stdout(await world.run(pinned, policy=PullPolicy.NEVER)) == "one"
    with pytest.raises(ImageNotFoundError):
        await world.run(registry.name(f"app@sha256:{'0' * 64}"))
    await dropped(world, registry.name("app:1"))


async def test_a_moved_tag_is_noticed_by_always_and_not_by_missing(
    world: World, registry: Registry, base: str
) -> None:
    name = registry.name("moving:1")
    first = await publish(world.engine, registry, base, "moving:1", "one")
    assert (await world.pull(name)).digest == first
    second = await publish(world.engine, registry, base, "moving:1", "two")
    await asyncio.to_thread(world.cli, "tag", first, name)
    assert stdout(await world.run(name)) == "one"
    record = await world.run(name, policy=PullPolicy.ALWAYS)
    assert (stdout(record), record.result and record.result.image_digest) == ("two", second)
    await dropped(world, name)


async def test_never_asks_no_registry_and_says_how_to_get_the_image(
    world: World, registry: Registry, base: str
) -> None:
    await publish(world.engine, registry, base, "app:2", "one")
    with pytest.raises(ImageNotFoundError) as refused:
        await world.run(registry.name("app:2"), policy=PullPolicy.NEVER)
    assert "pull" in (refused.value.hint or "")
    assert not world.told(ImagePullStarted)


async def test_pulls_of_one_image_at_once_are_one_pull(
    world: World, registry: Registry, base: str
) -> None:
    await publish(world.engine, registry, base, "many:1", "one")
    name = registry.name("many:1")
    steps: list[list[object]] = [[] for _ in range(5)]
    order = world.order(name, policy=PullPolicy.ALWAYS)
    roots = await asyncio.gather(*(world.images.provide(order, one.append) for one in steps))
    assert len({root.digest for root in roots}) == 1
    assert len(world.told(ImagePullStarted)) == 1
    assert all(steps)
    await dropped(world, name)


@pytest.mark.parametrize("where", ["in the registry", "without a registry"])
async def test_an_image_that_nobody_has_is_not_found(
    docker_engine: str, registry: Registry, tmp_path: Path, where: str
) -> None:
    address = registry.address if where == "in the registry" else f"127.0.0.1:{free_port()}"
    async with opened(docker_engine, tmp_path, address) as world:
        with pytest.raises(ImageNotFoundError) as refused:
            await world.run(f"{address}/nobody:1", ask=ImageAsk(seconds_max=60))
    assert refused.value.hint


async def test_requests_pull_from_no_registry_that_was_not_allowed(
    docker_engine: str, registry: Registry, tmp_path: Path
) -> None:
    async with opened(docker_engine, tmp_path, "*") as world:
        for address in (registry.address, "localhost:1", "169.254.169.254", "[::1]:5000"):
            with pytest.raises(PermissionDeniedError, match="does not pull from"):
                await world.run(f"{address}/app:1")
    assert "GET" not in registry.pulled.read_text()


async def test_a_private_image_needs_credentials_and_stays_with_who_had_them(
    docker_engine: str, private_registry: Registry, tmp_path: Path, base: str, capfd
) -> None:
    await publish(docker_engine, private_registry, base, "secret:1", "mine")
    name = private_registry.name("secret:1")
    async with opened(docker_engine, tmp_path, private_registry.address) as world:
        for who, login in ((LOCAL_PRINCIPAL, None), (OTHER, RegistryLogin("faas", "wrong-1"))):
            with pytest.raises((PermissionDeniedError, ImageNotFoundError)) as refused:
                await world.run(name, who=who, ask=ImageAsk(login))
            assert "wrong-1" not in f"{refused.value.message} {refused.value.details}"
        record = await world.run(name, ask=ImageAsk(LOGIN))
        assert stdout(record) == "mine"
        digest = record.result.image_digest if record.result else ""
        assert stdout(await world.run(name)) == "mine"
        for theirs in (name, digest):
            with pytest.raises((PermissionDeniedError, ImageNotFoundError)):
                await world.run(theirs, who=OTHER)
        assert name not in {one.reference for one in await world.images.list(OTHER.tenant.id)}
        assert name in {one.reference for one in await world.images.list(TenantId("default"))}
        assert stdout(await world.run(name, who=OTHER, ask=ImageAsk(LOGIN))) == "mine"
        await dropped(world, name)
    said = "".join(capfd.readouterr())
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "ledger.sqlite" for path in kept)
    for secret in (PASSWORD, "wrong-1"):
        assert secret not in said
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []


async def test_dockers_own_login_serves_requests_without_one(
    docker_engine: str, private_registry: Registry, tmp_path: Path, base: str, monkeypatch
) -> None:
    await publish(docker_engine, private_registry, base, "ours:1", "ours")
    name, home = private_registry.name("ours:1"), tmp_path / "docker-home"
    home.mkdir()
    helper = tmp_path / "docker-credential-faastest"
    answer = json.dumps({"Username": "faas", "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin")
    token = "ZmFhczpjb3JyZWN0LWhvcnNlLTc="
    for content in (
        {"auths": {private_registry.address: {"auth": token}}},
        {"credHelpers": {private_registry.address: "faastest"}},
    ):
        (home / "config.json").write_text(json.dumps(content))
        async with opened(docker_engine, tmp_path, private_registry.address) as world:
            assert stdout(await world.run(name, who=OTHER)) == "ours"
            await dropped(world, name)


def context(**files: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return sink.getvalue()


async def build(world: World, data: bytes, path: Path, **order: object) -> tuple[str, object]:
    path.write_bytes(data)
    words, root = "", None
    async for said in world.images.build(path, BuildOrder(**order)):
        if isinstance(said, str):
            words += said
        else:
            root = said
    return words, root


async def test_an_image_is_built_and_runs(world: World, base: str, tmp_path: Path) -> None:
    name = f"faas-test-built:{world.platform.data_dir.tag}"
    text = f"FROM {base} AS one\nARG WHO\nCOPY f /f\nRUN echo $WHO > /mark\nFROM one\nRUN false\n"
    tar = context(Dockerfile=text, f="content")
    words, root = await build(
        world, tar, tmp_path / "c", reference=name, target="one", arguments=(("WHO", "me"),),
        network="none",
    )  # fmt: skip
    assert "Step 1/" in words
    record = await world.run(name, "cat /mark /f")
    assert stdout(record).split() == ["me", "content"]
    assert isinstance(root, RootFilesystem)
    assert record.result is not None
    assert record.result.image_digest == root.digest
    with pytest.raises(InvalidImageError, match="false"):
        await build(world, tar, tmp_path / "c", reference=name, network="none")
    await dropped(world, name)


async def test_an_image_in_use_is_not_removed(world: World, base: str) -> None:
    name = f"faas-test-used:{world.platform.data_dir.tag}"
    await asyncio.to_thread(made, world.engine, base, name, "used")
    spec = ExecutionSpec(("/bin/sleep", "60"), name, runtime=RuntimeChoice.DOCKER)
    running = await world.platform.executor.submit(spec, LOCAL_PRINCIPAL)
    await world.platform.executor.places.begun(running.id)
    with pytest.raises(WrongStateError, match="in use"):
        await world.images.remove(name)
    await world.platform.executor.cancel(running.id, LOCAL_PRINCIPAL)
    with pytest.raises(ImageNotFoundError):
        await world.images.remove("faas-test-nobody:1", runtime="docker")


async def test_an_image_removed_behind_our_back_is_fetched_again(
    world: World, registry: Registry, base: str
) -> None:
    digest = await publish(world.engine, registry, base, "back:1", "one")
    name = registry.name("back:1")
    assert stdout(await world.run(name)) == "one"
    await dropped(world, name)
    world.images._looked.clear()  # as after a second
    assert stdout(await world.run(name)) == "one"
    assert len(world.told(ImagePulled)) == 2
    await dropped(world, name)
    looked = await world.images._find(world.order(name))
    assert looked is None
    kept = RootFilesystem(digest=digest, path=None, keeper="docker")
    world.images._looked["docker", name] = (kept, world.images._clock.monotonic_ns())
    world.platform.registry.get("docker")._images.forget(digest)
    with pytest.raises(ImageNotFoundError, match="removed"):
        await world.run(name)


async def test_a_pull_whose_callers_left_is_ended(
    world: World, registry: Registry, base: str
) -> None:
    await publish(world.engine, registry, base, "left:1", "one")
    name = registry.name("left:1")
    pulling = asyncio.create_task(world.pull(name))
    while not world.told(ImagePullStarted):
        await asyncio.sleep(0)
    pulling.cancel()
    assert isinstance((await asyncio.gather(pulling, return_exceptions=True))[0], BaseException)
    assert (await world.pull(name)).keeper == "docker"
    await dropped(world, name)


async def test_auto_runs_what_only_the_engine_has_there(
    docker_engine: str, tmp_path: Path, base: str
) -> None:
    name = "faas-test-auto:1"
    await asyncio.to_thread(made, docker_engine, base, name, "auto")
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("docker", "noop"), docker_host=docker_engine,
        disable_prewarm=True, parked_max=0,
    )  # fmt: skip
    async with open_platform(settings) as platform:
        world = World(platform, docker_engine, tmp_path)
        record = await world.run(name, runtime=RuntimeChoice.AUTO)
        assert (stdout(record), record.result and record.result.runtime_used) == ("auto", "docker")
        await dropped(world, name)


async def test_without_an_engine_its_images_are_unavailable_and_the_rest_is_not(
    tmp_path: Path,
) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", runtimes=("docker", "noop"),
        docker_host="unix:///nowhere/engine.sock", disable_prewarm=True, parked_max=0,
    )  # fmt: skip
    async with open_platform(settings) as platform:
        spec = ExecutionSpec(("true",), "app:1", runtime=RuntimeChoice.DOCKER)
        with pytest.raises(RuntimeUnavailableError):
            await platform.executor.execute(spec, LOCAL_PRINCIPAL)
        assert [one.reference for one in await platform.images.list()] == ["host"]
        spec = replace(spec, image="host", runtime=RuntimeChoice.AUTO)
        assert (await platform.executor.execute(spec, LOCAL_PRINCIPAL)).result is not None
