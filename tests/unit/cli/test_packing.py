import io
import os
import tarfile
from pathlib import Path

import pytest

from faas.cli import packing
from faas.errors import TooLargeError


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def test_a_directory_is_packed_without_what_is_made_again(tmp_path: Path) -> None:
    for name in ("src/a.py", ".git/HEAD", "src/__pycache__/a.pyc", "node_modules/x/y.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    data = packing.packed(tmp_path)
    assert names(data) == ["link", "run", "src", "src/a.py"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("run").mode & 0o777 == 0o755
        assert tar.getmember("run").uname == ""
        assert tar.getmember("link").linkname == "/etc/passwd"


def test_one_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BYTES_MAX", 100)
    (tmp_path / "big").write_bytes(bytes(101))
    with pytest.raises(TooLargeError, match="more than"):
        packing.packed(tmp_path)
