"""kill -9 of a real gateway during runs, again and again: nothing lost, run twice, cut off or left.

`FAAS_CHAOS_ROUNDS=200` is the long run; `FAAS_CHAOS_SEED` repeats one.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faas.data_dir import DataDir

ROUNDS = int(os.environ.get("FAAS_CHAOS_ROUNDS", "10"))
SEED = int(os.environ.get("FAAS_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32))))

PATIENCE_SECONDS = 60.0
"""Until something counts as hung; never a measure of speed."""

LINES = 60
SCRIPT = (
    "i=0; while [ $i -lt {lines} ]; do echo out-{name}-$i; echo err-{name}-$i >&2;"
    " i=$((i+1)); sleep 0.01; done; exit 7"
)
BULK = "head -c 300000 /dev/zero | tr '\\000' {letter}; sleep 0.2; echo {name}"


def environment() -> dict[str, str]:
    """What a gateway is started with: nothing of ours that it would take for settings."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("FAAS_")}
    return {**inherited, "FAAS_POOL_SIZE": "2", "FAAS_RUNTIMES": "embedded"}


@dataclass
class Gateway:
    """A gateway process on a data directory that outlives it."""

    data_dir: Path
    process: subprocess.Popen[str] | None = None
    url: str = ""
    log: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faas", "serve", "--port", "0", "--data-dir", self.data_dir],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for line in self.process.stderr:
            self.log.append(line)
            if "listens on" in line:
                self.url = line.split()[-1]
                return
        self.process.stderr.close()
        self.process.wait(PATIENCE_SECONDS)
        raise AssertionError(f"the gateway did not start: {''.join(self.log)}")

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        with self.process.stderr as rest:
            self.log += rest
        self.process.wait(PATIENCE_SECONDS)

    def ask(self, path: str, body: object = None, **headers: str) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read())

    def submit(self, command: str, key: str) -> str:
        body = {"command": command, "wait": False}
        return self.ask("/api/v1/execute", body, **{"Idempotency-Key": key})["execution_id"]

    def final(self, execution_id: str) -> dict:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            record = self.ask(f"/api/v1/executions/{execution_id}")
            if record["state"] in ("finished", "failed"):
                return record
            time.sleep(0.02)
        raise AssertionError(f"{execution_id} did not end")


@pytest.fixture
def gateway(nothing_left) -> Iterator[Gateway]:
    directory = Path(tempfile.mkdtemp(prefix="faas-chaos-"))
    data_dir = directory / "data"
    held = DataDir.hold(data_dir)
    tag = held.tag
    held.release()
    nothing_left(tag=tag, data_dir=data_dir)
    opened = Gateway(data_dir)
    yield opened
    if opened.process is not None and opened.process.poll() is None:
        opened.end(signal.SIGTERM)
    shutil.rmtree(directory)


@dataclass
class Work:
    """One execution that was asked for, and what must come of it."""

    execution_id: str
    name: str
    command: str
    stdout: str
    stderr: str
    code: int


def ask_for(gateway: Gateway, name: str, *, is_bulk: bool) -> Work:
    if is_bulk:
        letter = name[-1]
        command = BULK.format(letter=letter, name=name)
        stdout, stderr, code = letter * 300_000 + name + "\n", "", 0
    else:
        command = SCRIPT.format(lines=LINES, name=name)
        stdout = "".join(f"out-{name}-{i}\n" for i in range(LINES))
        stderr = "".join(f"err-{name}-{i}\n" for i in range(LINES))
        code = 7
    return Work(gateway.submit(command, name), name, command, stdout, stderr, code)


@pytest.mark.needs_root
@pytest.mark.timeout(30 + 30 * ROUNDS)
def test_killed_gateways_lose_nothing(gateway: Gateway) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    chance = random.Random(SEED)
    print(f"FAAS_CHAOS_SEED={SEED}")
    gateway.start()
    for number in range(ROUNDS):
        asked: list[Work] = []
        for one in range(chance.randrange(1, 5)):
            asked.append(ask_for(gateway, f"r{number}x{one}", is_bulk=chance.random() < 0.3))
        time.sleep(chance.uniform(0, 0.9))
        gateway.end(signal.SIGKILL)
        time.sleep(chance.choice([0.0, 0.0, 0.5]))
        gateway.start()
        for work in asked:
            check(gateway, work)
    gateway.end(signal.SIGTERM)
    assert gateway.process.returncode == 0, "".join(gateway.log[-20:])
    spooled = {path.stem for path in (gateway.data_dir / "spool").iterdir()}
    assert len(spooled) <= 4 * ROUNDS


def check(gateway: Gateway, work: Work) -> None:
    record = gateway.final(work.execution_id)
    assert record["state"] == "finished", record["failure"] or gateway.log[-20:]
    assert (record["exit_code"], record["reason"]) == (work.code, "exited")
    assert record["stdout"] == work.stdout
    assert record["stderr"] == work.stderr
    assert gateway.submit(work.command, work.name) == work.execution_id


@pytest.mark.needs_root
def test_a_terminated_gateway_leaves_its_commands_to_the_next(gateway: Gateway) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    gateway.start()
    work = ask_for(gateway, "handover", is_bulk=False)
    gateway.end(signal.SIGTERM)
    assert gateway.process.returncode == 0
    gateway.start()
    check(gateway, work)


@pytest.mark.needs_root
def test_a_second_gateway_on_the_same_data_is_refused(gateway: Gateway) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    gateway.start()
    with pytest.raises(AssertionError, match="did not start"):
        Gateway(gateway.data_dir).start()
    assert gateway.submit("true", "still-served")


@pytest.mark.needs_root
def test_an_unknown_execution_is_not_found_after_all_that(gateway: Gateway) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    gateway.start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.ask("/api/v1/executions/exec-01k9zjv3f8q5r2m7c4x6w0n1ab")
    with caught.value as answer:
        assert answer.code == 404
