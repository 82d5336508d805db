"""What the build promises."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.native.conftest import ROOT


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_same_source_gives_the_same_bytes_wherever_it_lies(tmp_path, arch):
    """On both architectures, static, and with no path of this machine inside."""
    outs = []
    for name in ("one", "another/place"):
        copy = tmp_path / name
        shutil.copytree(ROOT / "native", copy / "native", ignore=shutil.ignore_patterns("build"))
        shutil.copytree(ROOT / "scripts", copy / "scripts")
        outs.append(tmp_path / f"{arch}-{len(outs)}")
        script = copy / "scripts" / "build_native.py"
        subprocess.run([sys.executable, script, arch, outs[-1]], check=True, capture_output=True)
    first, second = (out.read_bytes() for out in outs)
    assert first == second
    assert str(tmp_path).encode() not in first
    assert str(Path.home()).encode() + b"/" not in first
    machine = {"x86_64": 62, "aarch64": 183}[arch]
    assert int.from_bytes(first[18:20], "little") == machine
    assert b"ld-musl" not in first
    assert len(first) < 512 << 10


def test_without_a_verb_it_says_what_there_is(binary):
    said = subprocess.run([binary], capture_output=True, check=False)
    assert said.returncode == 2
    assert b"agent" in said.stderr
    assert b"launch" in said.stderr
