"""`faas-native pause`: a new network namespace for every byte, and an end with its caller."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from tests.native.conftest import SANITIZER_ENV

pytestmark = pytest.mark.needs_root


@pytest.fixture(params=["released", "sanitized"])
def pause(request, place):
    binary = request.getfixturevalue(request.param)
    path = place / "pause.sock"
    process = subprocess.Popen(
        [binary, "pause", "--listen", path], env={**os.environ, **SANITIZER_ENV}
    )
    deadline = time.monotonic() + 20
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(20)
    while True:
        try:
            caller.connect(str(path))
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    yield process, caller, path
    caller.close()
    assert process.wait(20) == 0


def namespace(pid):
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def test_each_byte_is_a_new_namespace_with_loopback_up(pause):
    process, caller, _ = pause
    assert caller.recv(1) == b"y"
    seen = {namespace("self"), namespace(process.pid)}
    held = []
    for count in range(3):
        caller.sendall(b"n")
        assert caller.recv(1) == b"y"
        held.append(os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY))
        seen.add(namespace(process.pid))
        assert len(seen) == count + 2
    argv = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "-o", "link"]
    links = subprocess.run(argv, stdout=-1, text=True, check=True).stdout
    assert "lo: <LOOPBACK,UP" in links
    assert len(links.splitlines()) == 1
    for descriptor in held:
        os.close(descriptor)


def test_only_the_first_caller_is_heard(pause):
    _, caller, path = pause
    assert caller.recv(1) == b"y"
    with socket.socket(socket.AF_UNIX) as second, pytest.raises(OSError, match="refused"):
        second.connect(str(path))


def test_a_wrong_call_says_how_it_is_used(released):
    done = subprocess.run([released, "pause", "--listen"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"cannot listen" in done.stderr
