"""Mutated frames, plans and tars against the sanitized build: it may refuse, it may not die.

The seed is printed with a failure; `FAAS_FUZZ_SEED` repeats it, `FAAS_FUZZ_FACTOR` runs longer.
"""

import contextlib
import io
import json
import os
import random
import struct
import tarfile
import time
from pathlib import Path

import pytest
from tests.native.conftest import SANITIZER_ENV, Agent
from tests.native.plans import FAILED, LAUNCHED, PONG, Launcher, tmpfs_root, users, usual
from tests.native.test_files import archive, member, tar_in
from tests.native.wire import EXEC, HELLO, LIST, ConnectionEndedError, Host, exec_payload, frame

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "spec/vectors/frames.json").read_text())
REQUESTS = [
    (bytes.fromhex(v["hex"]), v["fds"]) for v in VECTORS["frames"] if v["direction"] == "to_agent"
]
INTERESTING = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65535,
    65536,
    (1 << 20) - 1,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
]
HELLO_FRAME = frame(HELLO, 1, struct.pack("<I", 1))
FACTOR = float(os.environ.get("FAAS_FUZZ_FACTOR", "1"))


@pytest.fixture
def chance():
    """A seeded source of chance; the seed shows with the failure."""
    seed = int(os.environ.get("FAAS_FUZZ_SEED") or time.time_ns())
    print(f"FAAS_FUZZ_SEED={seed}")
    return random.Random(seed)


def mutate(chance: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at = chance.randrange(len(raw)) if raw else 0
        kind = chance.randrange(7)
        if kind == 0 and raw:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and raw:
            raw[at] = chance.randrange(256)
        elif kind == 2 and len(raw) >= 4:
            at = min(at, len(raw) - 4)
            raw[at : at + 4] = struct.pack("<I", chance.choice(INTERESTING))
        elif kind == 3:
            raw[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(20)))
        elif kind == 4:
            del raw[at : at + chance.randrange(1, 40)]
        elif kind == 5:
            raw[at:at] = raw[at : at + chance.randrange(64)]
        elif raw:
            raw = raw[:at]
    return bytes(raw)


def reframe(data: bytes) -> bytes:
    """Make the length right again, so that the payload is what is hostile."""
    if len(data) < 12:
        return data
    return struct.pack("<I", len(data) - 12) + data[4:]


def is_harmless(data: bytes) -> bool:
    """Mutations may not remove this machine's files: they run with our rights here."""
    kind = data[4] if len(data) > 4 else 0
    return kind not in (19, 20, 21, 22, 23)


@pytest.fixture
def target(sanitized, place):
    """An agent that cannot tell a mutated program from a real one, but has little to run."""
    started = Agent(sanitized, place)
    yield started
    started.close()


def test_mutated_frames_do_not_kill_the_agent(target, place, chance):
    with (place / "spool").open("w+b") as spool:
        for _ in range(int(8000 * FACTOR)):
            host = target.connect(greet=False)
            data, count = HELLO_FRAME, 0
            for request, fds in chance.choices(REQUESTS, k=chance.randrange(1, 5)):
                changed = mutate(chance, request)
                if chance.random() < 0.7:
                    changed = reframe(changed)
                if is_harmless(changed) and is_harmless(request):
                    data, count = data + changed, min(count + fds, 12)
            host.send(data, [spool.fileno()] * chance.choice([count, count, 0, 1]))
            host.close()
            target.hosts.clear()
    assert target.connect().call(LIST).type == 72


def _connect(path: Path) -> Host:
    """The hosts that hung up may still hold all eight places."""
    for _ in range(100):
        with contextlib.suppress(ConnectionEndedError):
            return Host(path)
        time.sleep(0.01)
    raise ConnectionEndedError


def test_mutated_files_do_not_kill_the_agent(sanitized, place, chance):
    """Frames that change files go to an agent in a sandbox, where nothing is lost."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    launcher = Launcher(sanitized, place, env={**os.environ, **SANITIZER_ENV})
    try:
        sandbox = launcher.launch(usual())
        requests = [r for r in REQUESTS if not is_harmless(r[0])]
        with (place / "spool").open("w+b") as spool:
            for _ in range(int(4000 * FACTOR)):
                host = Host(sandbox.path, greet=False)
                request, fds = chance.choice(requests)
                host.send(HELLO_FRAME + reframe(mutate(chance, request)), [spool.fileno()] * fds)
                host.close()
        survivor = _connect(sandbox.path)
        assert survivor.call(LIST).type == 72
        survivor.close()
        os.kill(sandbox.pid, 9)
    finally:
        launcher.close()


def test_mutated_plans_do_not_kill_the_launcher(sanitized, place, chance):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    launcher = Launcher(sanitized, place, env={**os.environ, **SANITIZER_ENV})
    plans = [usual(), users() + tmpfs_root(1 << 20)]
    try:
        with Path("/dev/null").open() as null:
            for number in range(int(400 * FACTOR)):
                packet = struct.pack("<BBHI", 1, 0, 0, number) + mutate(
                    chance, chance.choice(plans)
                )
                launcher.send(packet, (null.fileno(),))
                while (answer := launcher.receive()).kind not in (FAILED, LAUNCHED, PONG):
                    pass
                if answer.kind == LAUNCHED:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(struct.unpack_from("<I", answer.body)[0], 9)
                    os.close(answer.fds[0])
        assert launcher.process.poll() is None
    finally:
        launcher.close()


def test_mutated_tars_do_not_lead_outside_or_kill_the_worker(target, place, chance):
    host = target.connect()
    long = "n" * 150
    style = {
        n: archive(
            (member("a/" + long, mode=0o600), b"content" * 100),
            (member("l", tarfile.SYMTYPE, link="../x" * 60), b""),
            (member("a/h", tarfile.LNKTYPE, link="l"), b""),
            (member("d/", tarfile.DIRTYPE, mode=0o755), b""),
            style=n,
        )
        for n in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    }
    for number in range(int(1200 * FACTOR)):
        data = bytearray(mutate(chance, chance.choice(list(style.values()))))
        if chance.random() < 0.8:
            _correct_checksums(data)
        answer = tar_in(host, place / f"in/{number}", bytes(data))
        assert answer.type in (70, 71)
        assert b"worker died" not in answer.payload
    assert {entry.name for entry in place.iterdir()} <= {"in", "agent.sock", "agent.log"}


def _correct_checksums(data: bytearray) -> None:
    for at in range(0, len(data) - 511, 512):
        block = data[at : at + 512]
        if b"ustar" in block[250:270]:
            block[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(block)


def test_long_random_streams_are_hung_up_on(target, chance):
    for _ in range(20):
        host = target.connect(greet=False)
        host.send(chance.randbytes(chance.randrange(1, 100_000)))
        host.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):  # a length it still waits for
            host.until_ended()
        host.close()
    assert target.connect().call(LIST).type == 72


def test_the_archive_of_the_fuzzer_is_sound():
    with tarfile.open(fileobj=io.BytesIO(archive((member("x"), b"y")))) as tar:
        assert tar.getnames() == ["x"]
    assert frame(EXEC, 1, exec_payload(["x"]))
