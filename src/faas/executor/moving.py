"""A command of an instance, also while the instance is on disk: who waits for it waits on.

    here ⇄ leaving → away → here; from away, cancelled → lost

While it is leaving all works as before, for the pause may still fail. While it is away nothing can
be sent to it, its output stands still and so does its time limit.
"""

import asyncio

from faas.errors import SandboxBrokenError, WrongStateError
from faas.sandbox.protocols import Exit, Process, Progress


class MovingProcess:
    """A `Process` that may go on in another sandbox."""

    def __init__(self, name: str, process: Process | None) -> None:
        """`process` is None: it is away."""
        self._name = name
        self._process = process
        self._is_lost = False
        self._seen = Progress(0, 0, is_ended=False)
        self._staying = asyncio.Event()
        if process is not None:
            self._staying.set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int | None:
        """Its number in the sandbox, where the runtime tells."""
        pid: object = getattr(self._process, "pid", None)
        return pid if isinstance(pid, int) else None

    def leave(self) -> None:
        """It is about to go: that its sandbox breaks is not its end."""
        self._staying.clear()

    def stay(self) -> None:
        """It did not go."""
        self._staying.set()

    def go(self) -> None:
        """It is away."""
        self._process = None

    def arrive(self, process: Process) -> None:
        """It goes on here."""
        self._process = process
        self._staying.set()

    def lose(self) -> None:
        """It does not come back."""
        self._is_lost = True
        self._staying.set()

    async def wait(self) -> Exit:
        while True:
            process = await self._present()
            try:
                return await process.wait()
            except SandboxBrokenError:
                await self._outlive(process)

    def progress(self) -> Progress:
        if self._process is not None:
            now = self._process.progress()
            # What goes on elsewhere is heard of from its start on.
            self._seen = Progress(
                max(self._seen.stdout_bytes, now.stdout_bytes),
                max(self._seen.stderr_bytes, now.stderr_bytes),
                is_ended=now.is_ended,
            )
        return self._seen

    async def changed(self, seen: Progress) -> Progress:
        while self.progress() == seen:
            process = await self._present()
            if self.progress() != seen:
                break
            try:
                await process.changed(process.progress())
            except SandboxBrokenError:
                await self._outlive(process)
        return self.progress()

    async def write_stdin(self, data: bytes, *, offset: int, is_last: bool = False) -> int:
        return await self._here().write_stdin(data, offset=offset, is_last=is_last)

    async def resize(self, *, rows: int, columns: int) -> None:
        await self._here().resize(rows=rows, columns=columns)

    async def signal(self, number: int) -> None:
        await self._here().signal(number)

    async def kill(self) -> None:
        if self._process is None:
            self.lose()
        else:
            await self._process.kill()

    def _here(self) -> Process:
        if self._process is None:
            raise WrongStateError("the instance is on disk", hint="resume it first")
        return self._process

    async def _present(self) -> Process:
        while self._process is None:
            await self._staying.wait()
            if self._is_lost:
                raise SandboxBrokenError("the command did not come back with its instance")
        return self._process

    async def _outlive(self, broken: Process) -> None:
        """Wait until it is known whether it left; raise when its sandbox broke under it."""
        if self._staying.is_set() and self._process is broken:
            raise SandboxBrokenError
        await self._staying.wait()
        if self._process is broken:
            await broken.wait()
