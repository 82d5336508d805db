"""A directory as the tar that `--archive` sends."""

import io
import os
import tarfile
from pathlib import Path

from faas.errors import TooLargeError

LEFT_OUT = frozenset({".git", "__pycache__", ".venv", "node_modules"})
"""Big, and made again where it is needed; as the Python SDK leaves out."""

BYTES_MAX = 256 << 20
"""It is held in memory. What the gateway takes is its own to say."""


def packed(directory: Path) -> bytes:
    """Pack what is below a directory: names sorted, owners left out, modes kept.

    Raises:
        TooLargeError: it holds more than `BYTES_MAX`.
    """
    buffer = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for at, directories, names in os.walk(directory):
            directories[:] = sorted(set(directories) - LEFT_OUT)
            for path in (Path(at) / name for name in sorted([*directories, *names])):
                info = tar.gettarinfo(path, arcname=path.relative_to(directory).as_posix())
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                size += info.size
                if size > BYTES_MAX:
                    raise TooLargeError(
                        f"{directory} holds more than {BYTES_MAX >> 20} MiB",
                        hint="name a smaller directory, or put the files into an instance",
                    )
                if info.isreg():
                    with path.open("rb") as content:
                        tar.addfile(info, content)
                elif info.isdir() or info.issym():
                    tar.addfile(info)
    return buffer.getvalue()
