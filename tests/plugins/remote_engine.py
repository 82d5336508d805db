"""A second Engine, reached only over TCP with TLS on loopback, as one on another machine."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.plugins.docker import REPOSITORY, Docker

_FILES = (("cacert", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))


@dataclass(frozen=True)
class RemoteEngine:
    """Its address, and the directories of who it knows and of who it does not."""

    url: str
    certificates: Path
    strangers: Path

    def cli(self, *arguments: str) -> str:
        """What Docker's own client says."""
        tls = ["--tlsverify", *(f"--tls{name}={self.certificates / file}" for name, file in _FILES)]
        argv = ["docker", "-H", self.url, *tls, *arguments]
        return subprocess.run(argv, stdout=-1, text=True, check=True).stdout.strip()


def make_certificates(directory: Path) -> None:
    """An authority, a server of 127.0.0.1 and a client, by openssl."""
    directory.mkdir()
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    steps = [f"req -x509 {key} -days 2 -subj /CN=ca -keyout ca-key.pem -out ca.pem"]
    for name, stem, use in (("server", "server-", "serverAuth"), ("client", "", "clientAuth")):
        extension = directory / f"{name}.ext"
        extension.write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={use}\n")
        signed = f"-CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile {name}.ext"
        steps.append(f"req {key} -subj /CN={name} -keyout {stem}key.pem -out {name}.csr")
        steps.append(f"x509 -req -in {name}.csr {signed} -out {stem}cert.pem")
    for step in steps:
        argv = ["openssl", *step.split()]
        subprocess.run(argv, cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="session")
def remote_engine() -> Iterator[RemoteEngine]:
    """Started for the tests of one run, and gone after them."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="faas-remote-") as directory:
        place = Path(directory)
        known, strangers = place / "known", place / "strangers"
        make_certificates(known)
        make_certificates(strangers)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        url = f"tcp://127.0.0.1:{port}"
        tls = ["--tlsverify", "--tlscacert", str(known / "ca.pem"),
               "--tlscert", str(known / "server-cert.pem"),
               "--tlskey", str(known / "server-key.pem")]  # fmt: skip
        environment = {**os.environ, "FAAS_TEST_DOCKER": str(place / "engine")}
        script = str(REPOSITORY / "scripts" / "docker_engine.sh")

        def run(*arguments: str) -> int:
            return subprocess.run([script, *arguments], env=environment, check=False).returncode

        try:
            if run("start", "--host", url, *tls) != 0:
                pytest.skip("scripts/docker_engine.sh start failed")
            yield RemoteEngine(url, known, strangers)
        finally:
            run("stop")


@pytest.fixture
async def remote(remote_engine: RemoteEngine):
    """A started Docker runtime on it; neither containers, volumes nor directories are left."""
    directory = Path(tempfile.mkdtemp(prefix="faas-remote-data-"))
    made = Docker(directory, remote_engine.url, certificates=remote_engine.certificates)
    await made.runtime.start()
    yield made
    await made.runtime.aclose()
    left = remote_engine.cli("ps", "-aq"), remote_engine.cli("volume", "ls", "-q")
    work = [path.name for path in (directory / "docker").iterdir()]
    shutil.rmtree(directory)
    assert (*left, work) == ("", "", [])
