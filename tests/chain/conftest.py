"""A real anvil on loopback, one for the session; every test deploys a chain world of its own."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.chain import their_tangle as their
from tests.chain.world import Ground, World, deploy_world
from web3 import AsyncHTTPProvider, AsyncWeb3

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
SCRIPT = ROOT / "scripts" / "contracts.sh"

# The record is Tangle's, not ours to keep: these are there where somebody names it, as CI does not.
collect_ignore = [] if their.record() else ["test_their_tangle.py"]


def tool_environment() -> dict[str, str]:
    """Where node and npm are found: setting up may have put them beside this Python."""
    beside = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{beside}:{os.environ.get('PATH', os.defpath)}"}


def run_script(verb: str, *, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), verb],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=tool_environment(),
    )


def _toolchain() -> None:
    if shutil.which("npm", path=tool_environment()["PATH"]) is None:
        pytest.skip("npm is missing: apt-get install nodejs npm")
    done = run_script("setup")
    if done.returncode != 0:
        pytest.skip(f"the contract tools could not be installed: {done.stderr[-400:]}")


def _anvil_binary() -> Path:
    """The program itself, not npm's wrapper, so that ending it ends all of it."""
    found = sorted((CONTRACTS / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil"))
    assert found, "npm installed no anvil for this machine"
    return found[0]


@pytest.fixture(scope="session")
def forge_build() -> Path:
    """The contracts, compiled now; the directory of forge's artifacts."""
    _toolchain()
    built = run_script("build")
    assert built.returncode == 0, built.stdout + built.stderr
    return CONTRACTS / "out"


@pytest.fixture(scope="session")
def anvil_url(tmp_path_factory):
    """The address of a running anvil that mines a block per transaction."""
    _toolchain()
    with _anvil(tmp_path_factory.mktemp("anvil")) as url:
        yield url


@pytest.fixture(scope="session")
def their_tangle(tmp_path_factory):
    """The protocol's own contracts on a node of their own."""
    with _theirs(tmp_path_factory.mktemp("theirs")) as deployed:
        yield deployed


@pytest.fixture(scope="module")
def their_timely_tangle(tmp_path_factory):
    """The same on a node whose clock nobody turns: operators refuse one that is ahead of theirs."""
    with _theirs(tmp_path_factory.mktemp("timely")) as deployed:
        yield deployed


@contextlib.contextmanager
def _theirs(directory: Path):
    path = their.record()
    assert path is not None, f"{their.VARIABLE} names the record"
    _toolchain()
    with _anvil(directory, *their.NODE_FLAGS) as url:
        # Whoever asks for it may be in a loop: this needs one of its own.
        with ThreadPoolExecutor(1) as thread:
            deployed = thread.submit(lambda: asyncio.run(their.deploy_theirs(url, path))).result()
        yield deployed


@contextlib.contextmanager
def _anvil(directory: Path, *flags: str):
    log = directory / "log"
    # A file, not a pipe: a pipe that nobody reads fills up and stops the node.
    with log.open("wb") as stdout:
        process = subprocess.Popen(
            [
                str(_anvil_binary()),
                *("--host", "127.0.0.1", "--port", "0", "--chain-id", "31337", "--accounts", "20"),
                *flags,
            ],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath, "HOME": str(directory)},
        )
    try:
        yield f"http://{_address(log, process)}"
    finally:
        process.terminate()
        process.wait(10)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Listening on "):
                return line.split()[-1]
        time.sleep(0.02)
    pytest.fail(f"anvil did not start: {log.read_text()[-400:]}")


@pytest.fixture(params=["ours", "theirs"] if their.record() else ["ours"])
async def ground(request):
    """A node with our DevTangle or, where its record is at hand, with the protocol's contracts."""
    theirs = request.getfixturevalue("their_tangle") if request.param == "theirs" else None
    url = theirs.url if theirs else request.getfixturevalue("anvil_url")
    w3 = AsyncWeb3(AsyncHTTPProvider(url))
    yield Ground(w3, theirs)
    await w3.provider.disconnect()


@pytest.fixture
async def world(ground) -> World:
    """Tangle, our manager, one blueprint, two operators, one service."""
    return await deploy_world(ground, operators=2)
