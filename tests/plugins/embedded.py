"""Real embedded sandboxes for tests: make one, run a thing in it, see what it said."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from faas.embedded.runtime import EmbeddedRuntime
from faas.embedded.sandbox import EmbeddedSandbox
from faas.embedded.settings import EmbeddedSettings, packaged_binary
from faas.ids import new_sandbox_id
from faas.model import Limits
from faas.sandbox.protocols import Command, Exit, OutputFiles, RootFilesystem, SandboxSpec

HOST = RootFilesystem(digest="host", path=None)


@dataclass(frozen=True)
class Ran:
    exit: Exit
    stdout: bytes
    stderr: bytes

    @property
    def code(self) -> int:
        return self.exit.code

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    def __str__(self) -> str:
        return f"{self.exit}\n--- out\n{self.text}\n--- err\n{self.stderr.decode(errors='replace')}"


class Embedded:
    """A runtime and the paths it was given."""

    def __init__(self, data_dir: Path, *, tag: str | None = None, **settings: object) -> None:
        self.data_dir = data_dir
        self.tag = tag or secrets.token_hex(4)
        self._settings = settings
        self.runtime = self.new_runtime()
        self._count = 0

    def new_runtime(self) -> EmbeddedRuntime:
        """Make another one on the same data, as a gateway's next start does."""
        return EmbeddedRuntime(
            EmbeddedSettings(
                run_dir=self.data_dir / "run",
                data_dir=self.data_dir,
                tag=self.tag,
                binary=packaged_binary(),
                **self._settings,  # type: ignore[arg-type]
            )
        )

    async def sandbox(
        self, *, root: RootFilesystem = HOST, limits: Limits | None = None, **more: bool
    ) -> EmbeddedSandbox:
        spec = SandboxSpec(new_sandbox_id(), root, limits or Limits(), **more)
        return await self.runtime.create(spec)

    def output(self) -> OutputFiles:
        self._count += 1
        spool = self.data_dir / "spool"
        spool.mkdir(exist_ok=True)
        return OutputFiles(spool / f"{self._count}.out", spool / f"{self._count}.err")

    async def run(
        self, sandbox: EmbeddedSandbox, *argv: str, name: str | None = None, **options: object
    ) -> Ran:
        """Run a command to its end."""
        output = self.output()
        command = Command(argv, **options)  # type: ignore[arg-type]
        process = await sandbox.start(name or f"c{self._count}", command, output)
        ended = await process.wait()
        return Ran(ended, output.stdout.read_bytes(), output.stderr.read_bytes())

    async def sh(self, sandbox: EmbeddedSandbox, script: str, **options: object) -> Ran:
        return await self.run(sandbox, "/bin/sh", "-c", script, **options)

    async def python(self, sandbox: EmbeddedSandbox, script: str, **options: object) -> Ran:
        return await self.run(sandbox, "/usr/bin/python3", "-c", script, **options)
