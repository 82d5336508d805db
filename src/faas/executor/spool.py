"""The spool files of executions: where they are, reading a whole one, taking them away."""

import os
import shutil
from pathlib import Path

from faas.errors import DataLossError
from faas.ids import ExecutionId
from faas.sandbox.protocols import Exit, OutputFiles


def output_files(directory: Path | str, execution_id: ExecutionId) -> OutputFiles:
    """Say where the output of an execution goes."""
    return OutputFiles(f"{directory}/{execution_id}.out", f"{directory}/{execution_id}.err")


def read_range(path: Path | str, offset: int, length: int) -> bytes:
    """Read part of a file; short at its end, empty when there is none."""
    if length <= 0:
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def read_whole(path: Path | str, bytes_max: int) -> bytes:
    """Read a file from its start, at most that much."""
    return read_range(path, 0, min(bytes_max, size_of(path)))


def read_both(output: OutputFiles, end: Exit, bytes_max: int) -> tuple[bytes, bytes]:
    """Read what a command's end says was kept; what a sandbox claims is not trusted past the cap.

    Raises:
        DataLossError: the files hold less.
    """
    stdout = _read_kept(output.stdout_name, min(end.stdout_kept_bytes, bytes_max))
    stderr = _read_kept(output.stderr_name, min(end.stderr_kept_bytes, bytes_max))
    return stdout, stderr


def size_of(path: Path | str) -> int:
    """Return the length of a file; 0 when there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  on the hot path, half the cost of Path.stat
    except FileNotFoundError:
        return 0


def remove(output: OutputFiles) -> None:
    """Take both files away."""
    for path in (output.stdout_name, output.stderr_name):
        try:  # noqa: SIM105  and this a fifth of suppress
            os.unlink(path)  # noqa: PTH108  on the hot path, half the cost of Path.unlink
        except FileNotFoundError:
            pass


def keep(output: OutputFiles, directory: Path, execution_id: ExecutionId) -> OutputFiles:
    """Copy both files to where they last, each whole or not at all; return where that is."""
    kept = output_files(directory, execution_id)
    for source, target in ((output.stdout, kept.stdout), (output.stderr, kept.stderr)):
        staged = target.with_name(target.name + ".new")
        try:
            shutil.copyfile(source, staged)
        except FileNotFoundError:
            continue
        staged.replace(target)
    return kept


def remove_strangers(directory: Path, known: set[ExecutionId]) -> int:
    """Take away the files of executions that nobody knows; return how many."""
    strangers = [path for path in directory.iterdir() if path.stem not in known]
    for path in strangers:
        path.unlink()
    return len(strangers)


def _read_kept(path: str, length: int) -> bytes:
    if not length:
        return b""
    data = read_range(path, 0, length)
    if len(data) < length:
        raise DataLossError(f"{length - len(data)} bytes of the output are gone")
    return data
