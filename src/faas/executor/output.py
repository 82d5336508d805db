"""What an execution said, live or long after, by stream and offset."""

from pathlib import Path
from typing import Literal

from faas.errors import SandboxBrokenError
from faas.executor.active import Active
from faas.executor.images import ImageWatch
from faas.executor.records import Stored
from faas.executor.spool import output_files, read_range, size_of
from faas.sandbox.protocols import OutputFiles, Progress

Stream = Literal["stdout", "stderr"]


class ExecutionLogs:
    """Reads the output of one execution; never blocks for the command, never holds a file open."""

    def __init__(
        self, output: OutputFiles, *, active: Active | None, stored: Stored | None
    ) -> None:
        self._output = output
        self._active = active
        self._stored = stored

    @classmethod
    def of_stored(cls, stored: Stored, spool_dir: Path) -> "ExecutionLogs":
        """Read a finished execution."""
        output = output_files(spool_dir, stored.record.id)
        return cls(output, active=None, stored=stored)

    @property
    def _files(self) -> OutputFiles:
        """Where it lies now: an end may move it to where it lasts."""
        return self._output if self._active is None else self._active.output

    @property
    def image_watch(self) -> ImageWatch | None:
        """Where it waits for its image, how far that is."""
        return None if self._active is None else self._active.image_watch

    def progress(self) -> Progress:
        """Say how much there is of each stream, and whether more may come."""
        active = self._active
        if active is None:
            return self._final()
        if active.is_over:
            return self._ended(active)
        if active.process is None:
            return Progress(0, 0, is_ended=False)
        now = active.process.progress()
        # The end is told when the record is final: then offsets and exit agree.
        return Progress(now.stdout_bytes, now.stderr_bytes, is_ended=False)

    async def changed(self, seen: Progress) -> Progress:
        """Return as soon as the progress differs from `seen`."""
        while (now := self.progress()) == seen and not now.is_ended:
            active = self._active
            if active is None:
                break
            process = active.process
            if process is None or active.is_over or process.progress().is_ended:
                await active.change()
                continue
            try:
                await process.changed(process.progress())
            except SandboxBrokenError:
                if not active.is_over:
                    await active.change()
        return now

    def read(self, stream: Stream, *, offset: int, length: int) -> bytes:
        """Read part of a stream; short where it ends."""
        active = self._active
        record = None
        if active is not None:
            record = active.record
        elif self._stored is not None and not self._stored.is_spooled:
            record = self._stored.record
        if record is not None and record.result is not None:
            whole = record.result.stdout if stream == "stdout" else record.result.stderr
            return whole[offset : offset + length]
        files = self._files
        path = files.stdout if stream == "stdout" else files.stderr
        return read_range(path, offset, min(length, max(0, size_of(path) - offset)))

    def _final(self) -> Progress:
        stored = self._stored
        assert stored is not None  # noqa: S101  made with one of the two
        return Progress(stored.stdout_bytes, stored.stderr_bytes, is_ended=True)

    def _ended(self, active: Active) -> Progress:
        result = active.record.result if active.record is not None else None
        if result is None:
            output = self._files
            return Progress(size_of(output.stdout), size_of(output.stderr), is_ended=True)
        return Progress(len(result.stdout), len(result.stderr), is_ended=True)
