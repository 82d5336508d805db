"""The suite every runtime must pass: the rules of `faas.sandbox.protocols`, each a test.

Subclass `RuntimeConformance` and give it a `runtime` fixture (started) and, where the runtime can
adopt, a `reopen` fixture: what opens the next gateway's runtime on the same machine. A runtime
without a real shell subclasses `ScriptedConformance`, which uses only the words of `fake_shell`.
"""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faas.errors import (
    ConflictError,
    FaasError,
    InvalidArgumentError,
    NotFoundError,
    SandboxBrokenError,
    WrongStateError,
)
from faas.ids import new_sandbox_id
from faas.model import ExitReason, FileInput, Limits
from faas.sandbox.capabilities import Capability
from faas.sandbox.guarded import save_archive
from faas.sandbox.protocols import (
    Command,
    Exit,
    FileKind,
    OutputFiles,
    Process,
    Progress,
    RootFilesystem,
    Runtime,
    Sandbox,
    SandboxSpec,
)

PATIENCE_SECONDS = 20.0
"""Until a wait counts as hung; never a measure of speed."""

Reopen = Callable[[], Awaitable[Runtime]]


class Bench:
    """One sandbox on the bench, and the output of each command started in it."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self._directory = directory
        self._count = 0
        self.output = self._next_output()

    async def start(self, *argv: str, **fields: Any) -> Process:
        """Start a command with its own spool files."""
        self.output = self._next_output()
        command = replace(Command(argv=argv, working_dir="/tmp"), **fields)  # noqa: S108  inside
        return await self.sandbox.start(f"c{self._count}", command, self.output)

    async def sh(self, script: str, **fields: Any) -> Process:
        """Start a shell script."""
        return await self.start("/bin/sh", "-c", script, **fields)

    async def run(self, script: str, **fields: Any) -> Exit:
        """Run a shell script to its end."""
        process = await self.sh(script, **fields)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await process.wait()

    @property
    def stdout(self) -> bytes:
        """What the last command said."""
        return self.output.stdout.read_bytes() if self.output.stdout.exists() else b""

    @property
    def stderr(self) -> bytes:
        """What the last command said beside it."""
        return self.output.stderr.read_bytes() if self.output.stderr.exists() else b""

    def _next_output(self) -> OutputFiles:
        self._count += 1
        stem = f"{self.sandbox.id}-{self._count}"
        return OutputFiles(self._directory / f"{stem}.out", self._directory / f"{stem}.err")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that must come true."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110  nothing announces a file inside a sandbox
            await asyncio.sleep(0.02)


async def has_ended(process: Process) -> Progress:
    """Wait until a process says that its output has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen = process.progress()
        while not seen.is_ended:
            seen = await process.changed(seen)
        return seen


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Pack members as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class ScriptedConformance:
    """What holds for every runtime, even one that only pretends to have a shell."""

    root = RootFilesystem(digest="host", path=None)

    @pytest.fixture
    async def runtime(self) -> Runtime:
        """Override: a started runtime; close it afterwards."""
        raise RuntimeError("override the runtime fixture")

    @pytest.fixture
    async def reopen(self, runtime: Runtime) -> Reopen:
        """Override: open another runtime on the same machine, as after kill -9 of the first."""
        raise RuntimeError("override the reopen fixture")

    def spec(self, **fields: Any) -> SandboxSpec:
        """Ask for a sandbox."""
        return replace(SandboxSpec(id=new_sandbox_id(), root=self.root), **fields)

    @pytest.fixture
    async def bench(self, runtime: Runtime, tmp_path: Path) -> AsyncIterator[Bench]:
        """Give a test its sandbox."""
        sandbox = await runtime.create(self.spec())
        yield Bench(sandbox, tmp_path)
        await sandbox.destroy("test is over")

    async def test_a_probe_says_what_it_ran(self, runtime: Runtime) -> None:
        report = await runtime.probe()
        assert report.is_available, report.detail
        assert report.detail
        assert report.isolation

    async def test_a_sandbox_says_what_it_is(self, runtime: Runtime) -> None:
        spec = self.spec()
        sandbox = await runtime.create(spec)
        assert (sandbox.id, sandbox.runtime) == (spec.id, runtime.name)
        assert sandbox.image_digest == self.root.digest
        assert sandbox.is_alive
        await sandbox.destroy("test")
        assert not sandbox.is_alive

    async def test_a_creation_that_fails_leaves_nothing(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        missing = RootFilesystem(digest="sha256:0", path=tmp_path / "missing")
        spec = self.spec(root=missing)
        with pytest.raises(FaasError):
            await runtime.create(spec)
        assert await runtime.adopt(spec.id) is None
        report = await runtime.reclaim(keep=frozenset())
        assert (report.sandboxes, report.processes, report.cgroups, report.mounts) == (0, 0, 0, 0)

    async def test_output_and_code_are_the_commands_own(self, bench: Bench) -> None:
        end = await bench.run("echo out; echo err >&2; exit 3")
        assert (bench.stdout, bench.stderr) == (b"out\n", b"err\n")
        assert (end.code, end.signal, end.reason) == (3, None, ExitReason.EXITED)
        assert (end.stdout_kept_bytes, end.stdout_total_bytes) == (4, 4)
        assert (end.stderr_kept_bytes, end.stderr_total_bytes) == (4, 4)

    async def test_a_signal_that_ends_it_is_told(self, bench: Bench) -> None:
        end = await bench.run("kill -9 $$")
        assert (end.code, end.signal, end.reason) == (137, 9, ExitReason.SIGNALLED)

    async def test_a_program_that_is_not_found_exits_127(self, bench: Bench) -> None:
        process = await bench.start("no-such-program")
        end = await process.wait()
        assert (end.code, end.reason) == (127, ExitReason.EXITED)
        assert b"no-such-program" in bench.stderr

    async def test_a_missing_working_directory_exits_126(self, bench: Bench) -> None:
        end = await bench.run("true", working_dir="/no/such/place")
        assert end.code == 126
        assert bench.stderr

    async def test_environment_and_working_directory_are_as_asked(self, bench: Bench) -> None:
        await bench.run("pwd; env", env=(("GREETING", "a = b"),))
        assert bench.stdout.startswith(b"/tmp\n")
        assert b"GREETING=a = b\n" in bench.stdout

    async def test_output_is_capped_while_it_is_read(self, bench: Bench) -> None:
        end = await bench.run("echo 123456789; echo abc >&2", output_bytes_max=4)
        assert bench.stdout == b"1234"
        assert (end.stdout_kept_bytes, end.stdout_total_bytes) == (4, 10)
        assert (end.stderr_kept_bytes, end.stderr_total_bytes) == (4, 4)

    async def test_the_time_limit_ends_it(self, bench: Bench) -> None:
        end = await bench.run("echo before; sleep 60; echo after", timeout_ms=200)
        assert (end.code, end.reason) == (124, ExitReason.TIMED_OUT)
        assert bench.stdout == b"before\n"

    async def test_a_time_limit_of_zero_is_none(self, bench: Bench) -> None:
        end = await bench.run("sleep 0.05; echo done", timeout_ms=0)
        assert end.code == 0

    async def test_kill_ends_it_and_may_be_repeated(self, bench: Bench) -> None:
        process = await bench.sh("sleep 60")
        await process.kill()
        end = await process.wait()
        assert (end.code, end.reason) == (137, ExitReason.CANCELLED)
        await process.kill()
        assert await process.wait() == end

    async def test_cancelling_a_wait_leaves_the_command_running(self, bench: Bench) -> None:
        process = await bench.sh("cat", stdin_open=True)
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await process.write_stdin(b"still here", offset=0, is_last=True)
        assert (await process.wait()).code == 0
        assert bench.stdout == b"still here"

    async def test_stdin_given_in_full_ends_by_itself(self, bench: Bench) -> None:
        content = bytes(range(256)) * 400
        end = await bench.run("cat", stdin=content)
        assert end.code == 0
        assert bench.stdout == content

    async def test_without_stdin_a_command_reads_nothing(self, bench: Bench) -> None:
        assert (await bench.run("cat")).code == 0
        assert bench.stdout == b""

    async def test_stdin_is_fed_by_offset_and_a_repeat_is_harmless(self, bench: Bench) -> None:
        process = await bench.sh("cat", stdin=b"0", stdin_open=True)
        assert await process.write_stdin(b"abc", offset=0) == 3
        assert await process.write_stdin(b"bcd", offset=1) == 4
        with pytest.raises(InvalidArgumentError):
            await process.write_stdin(b"z", offset=9)
        await process.write_stdin(b"e", offset=4, is_last=True)
        await process.wait()
        assert bench.stdout == b"0abcde"
        with pytest.raises(WrongStateError):
            await process.write_stdin(b"late", offset=5)

    async def test_progress_is_told_as_it_comes(self, bench: Bench) -> None:
        process = await bench.sh("echo one; cat", stdin_open=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            seen = process.progress()
            while seen.stdout_bytes < 4:
                seen = await process.changed(seen)
        assert seen == Progress(4, 0, is_ended=False)
        assert bench.stdout == b"one\n"
        await process.write_stdin(b"two", offset=0, is_last=True)
        assert await has_ended(process) == Progress(7, 0, is_ended=True)

    async def test_several_commands_run_at_once(self, bench: Bench) -> None:
        first = await bench.sh("cat", stdin_open=True, is_exclusive=False)
        first_output = bench.output
        second = await bench.sh("echo second", is_exclusive=False)
        assert (await second.wait()).code == 0
        await first.write_stdin(b"first", offset=0, is_last=True)
        assert (await first.wait()).code == 0
        assert first_output.stdout.read_bytes() == b"first"

    async def test_a_name_is_used_once(self, bench: Bench) -> None:
        process = await bench.sh("cat", stdin_open=True)
        command = Command(argv=("true",))
        with pytest.raises(ConflictError):
            await bench.sandbox.start(process.name, command, bench.output)
        await process.kill()

    async def test_after_destroy_everything_is_refused(self, bench: Bench) -> None:
        process = await bench.sh("sleep 60")
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0)
        await bench.sandbox.destroy("test")
        await bench.sandbox.destroy("twice")
        with pytest.raises(SandboxBrokenError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await waiting
        with pytest.raises(SandboxBrokenError):
            await bench.sh("true")
        with pytest.raises(SandboxBrokenError):
            await bench.sandbox.read_file("/etc/passwd")
        with pytest.raises(SandboxBrokenError):
            await bench.sandbox.apply_limits(Limits())

    async def test_limits_can_be_changed(self, bench: Bench) -> None:
        await bench.sandbox.apply_limits(Limits(memory_bytes=128 << 20, cpu_millis=500))
        assert (await bench.run("true")).code == 0

    async def test_files_are_what_was_written(self, bench: Bench) -> None:
        box = bench.sandbox
        await box.put_files((FileInput("/tmp/a/b/c.bin", bytes(range(256)), 0o750),))  # noqa: S108
        assert await box.read_file("/tmp/a/b/c.bin") == bytes(range(256))  # noqa: S108
        assert await box.read_file("/tmp/a/b/c.bin", offset=5, length=3) == b"\5\6\7"  # noqa: S108
        stat = await box.stat("/tmp/a/b/c.bin")  # noqa: S108
        assert (stat.name, stat.kind, stat.size_bytes) == ("c.bin", FileKind.FILE, 256)
        assert stat.mode & 0o777 == 0o750
        await box.rename("/tmp/a/b/c.bin", "/tmp/a/d")  # noqa: S108
        await box.make_dir("/tmp/a/e/f")  # noqa: S108
        names = [(entry.name, entry.kind) for entry in await box.list_dir("/tmp/a")]  # noqa: S108
        directory = FileKind.DIRECTORY
        assert names == [("b", directory), ("d", FileKind.FILE), ("e", directory)]
        await box.remove("/tmp/a", recursive=True)  # noqa: S108
        with pytest.raises(NotFoundError):
            await box.stat("/tmp/a")  # noqa: S108

    async def test_a_large_file_goes_in_and_out_whole(self, bench: Bench) -> None:
        content = bytes(range(251)) * 8000
        await bench.sandbox.write_file("/tmp/large", content, mode=0o600)  # noqa: S108
        assert await bench.sandbox.read_file("/tmp/large") == content  # noqa: S108

    async def test_what_is_not_there_is_not_found(self, bench: Bench) -> None:
        for path in ("/tmp/none", "/tmp/none/deep"):  # noqa: S108
            with pytest.raises(NotFoundError):
                await bench.sandbox.read_file(path)
        with pytest.raises(NotFoundError):
            await bench.sandbox.list_dir("/tmp/none")  # noqa: S108

    async def test_a_relative_path_is_refused(self, bench: Bench) -> None:
        with pytest.raises(InvalidArgumentError):
            await bench.sandbox.write_file("relative", b"x")

    async def test_an_archive_goes_in_and_comes_out(self, bench: Bench) -> None:
        script = tarfile.TarInfo("bin/run.sh")
        script.mode = 0o755
        tar = tar_of((script, b"#!/bin/sh\n"), (tarfile.TarInfo("data.txt"), b"x" * 5000))
        await bench.sandbox.make_dir("/tmp/in")  # noqa: S108
        await bench.sandbox.put_archive(tar, path="/tmp/in")  # noqa: S108
        assert (await bench.sandbox.stat("/tmp/in/bin/run.sh")).mode & 0o777 == 0o755  # noqa: S108
        chunks = [chunk async for chunk in bench.sandbox.get_archive("/tmp/in")]  # noqa: S108
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as back:
            files = {
                info.name.removeprefix("./"): content.read()
                for info in back
                if (content := back.extractfile(info)) is not None
            }
        assert files == {"bin/run.sh": b"#!/bin/sh\n", "data.txt": b"x" * 5000}

    async def test_an_archive_is_saved_to_a_file(self, bench: Bench, tmp_path: Path) -> None:
        """Also one that is longer than any pipe, and none of what is not there."""
        content = bytes(range(256)) * (12 << 10)
        await bench.sandbox.make_dir("/tmp/in")  # noqa: S108
        await bench.sandbox.write_file("/tmp/in/f", content)  # noqa: S108
        saved = tmp_path / "saved.tar"
        await save_archive(bench.sandbox, "/tmp/in", saved)  # noqa: S108
        with tarfile.open(saved) as tar:
            (member,) = [info for info in tar if info.isfile()]
            found = tar.extractfile(member)
            assert found is not None
            assert found.read() == content
        with pytest.raises(NotFoundError):
            await save_archive(bench.sandbox, "/tmp/none", tmp_path / "none.tar")  # noqa: S108

    @pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil"])
    async def test_an_archive_that_leads_outside_is_refused(self, bench: Bench, name: str) -> None:
        await bench.sandbox.make_dir("/tmp/in")  # noqa: S108
        with pytest.raises(InvalidArgumentError):
            await bench.sandbox.put_archive(
                tar_of((tarfile.TarInfo(name), b"evil")),
                path="/tmp/in",  # noqa: S108
            )
        with pytest.raises(NotFoundError):
            await bench.sandbox.stat("/tmp/evil")  # noqa: S108

    async def test_an_archive_with_a_device_is_refused(self, bench: Bench) -> None:
        node = tarfile.TarInfo("null")
        node.type, node.devmajor, node.devminor = tarfile.CHRTYPE, 1, 3
        await bench.sandbox.make_dir("/tmp/in")  # noqa: S108
        with pytest.raises(InvalidArgumentError):
            await bench.sandbox.put_archive(tar_of((node, b"")), path="/tmp/in")  # noqa: S108

    async def test_a_process_is_found_again_by_its_name(self, bench: Bench) -> None:
        process = await bench.sh("cat", stdin_open=True)
        again = await bench.sandbox.attach(process.name)
        assert again is not None
        await process.write_stdin(b"x", offset=0, is_last=True)
        assert await again.wait() == await process.wait()
        ended = await bench.sandbox.attach(process.name)
        assert ended is not None
        assert (await ended.wait()).stdout_kept_bytes == 1
        assert await bench.sandbox.attach("never-started") is None

    async def test_a_sandbox_outlives_its_gateway(
        self, runtime: Runtime, bench: Bench, reopen: Reopen
    ) -> None:
        if Capability.ADOPT not in runtime.capabilities:
            pytest.skip("this runtime does not adopt")
        process = await bench.sh("echo one; sleep 0.5; echo two")
        second = await reopen()
        adopted = await second.adopt(bench.sandbox.id)
        assert adopted is not None
        assert (adopted.id, adopted.image_digest) == (bench.sandbox.id, self.root.digest)
        assert adopted.isolation == bench.sandbox.isolation
        await second.reclaim(keep={bench.sandbox.id})
        again = await adopted.attach(process.name)
        assert again is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            end = await again.wait()
        assert (end.code, end.stdout_kept_bytes) == (0, 8)
        assert bench.stdout == b"one\ntwo\n"
        await adopted.destroy("test")
        assert await second.adopt(bench.sandbox.id) is None

    async def test_reclaim_takes_what_is_not_kept(
        self, runtime: Runtime, bench: Bench, reopen: Reopen
    ) -> None:
        other = await runtime.create(self.spec())
        second = await reopen()
        report = await second.reclaim(keep={bench.sandbox.id})
        assert report.sandboxes == 1
        assert await second.adopt(other.id) is None
        kept = await second.adopt(bench.sandbox.id)
        assert kept is not None
        await kept.destroy("test")


class RuntimeConformance(ScriptedConformance):
    """What needs a real shell, kernel and time."""

    async def test_the_time_limit_ends_the_whole_tree(self, bench: Bench) -> None:
        escapee = "setsid sh -c 'sleep 1; echo > /tmp/escaped' & sleep 60"
        end = await bench.run(escapee, timeout_ms=200, is_exclusive=False)
        assert end.reason is ExitReason.TIMED_OUT
        await self.assert_never_appears(bench, "/tmp/escaped")  # noqa: S108

    async def test_kill_ends_the_whole_tree(self, bench: Bench) -> None:
        process = await bench.sh(
            "setsid sh -c 'echo > /tmp/up; sleep 1; echo > /tmp/escaped' & sleep 60",
            is_exclusive=False,
        )
        await until(lambda: self.exists(bench, "/tmp/up"))  # noqa: S108
        await process.kill()
        await process.wait()
        await self.assert_never_appears(bench, "/tmp/escaped")  # noqa: S108

    async def test_an_exclusive_command_leaves_nothing_running(self, bench: Bench) -> None:
        await bench.run("setsid sh -c 'sleep 1; echo > /tmp/escaped' & exit 0", is_exclusive=True)
        await self.assert_never_appears(bench, "/tmp/escaped")  # noqa: S108

    async def test_otherwise_background_processes_stay(self, bench: Bench) -> None:
        await bench.run("(sleep 0.3; echo > /tmp/late) & exit 0", is_exclusive=False)
        await until(lambda: self.exists(bench, "/tmp/late"))  # noqa: S108

    async def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(
        self, bench: Bench
    ) -> None:
        script = "trap '' TERM; while :; do sleep 0.05; done"
        end = await bench.run(script, timeout_ms=200, grace_ms=100)
        assert end.reason is ExitReason.TIMED_OUT

    async def test_within_the_grace_a_command_may_say_goodbye(self, bench: Bench) -> None:
        script = "trap 'echo bye; exit 1' TERM; while :; do sleep 0.05; done"
        end = await bench.run(script, timeout_ms=300, grace_ms=10_000)
        assert end.reason is ExitReason.TIMED_OUT
        assert bench.stdout == b"bye\n"

    async def test_large_output_is_whole(self, bench: Bench) -> None:
        end = await bench.run("head -c 3000000 /dev/zero")
        assert bench.stdout == bytes(3_000_000)
        assert end.stdout_total_bytes == 3_000_000

    async def test_endless_output_neither_blocks_nor_fills(self, bench: Bench) -> None:
        end = await bench.run("head -c 50000000 /dev/zero", output_bytes_max=1000)
        assert (end.code, end.stdout_kept_bytes) == (0, 1000)
        assert end.stdout_total_bytes == 50_000_000
        assert bench.output.stdout.stat().st_size == 1000

    async def test_every_byte_value_passes(self, bench: Bench) -> None:
        await bench.run("printf '\\001\\377\\000\\012'")
        assert bench.stdout == b"\x01\xff\x00\n"

    async def test_a_file_that_may_not_be_run_exits_126(self, bench: Bench) -> None:
        await bench.sandbox.write_file("/tmp/plain", b"#!/bin/sh\n", mode=0o644)  # noqa: S108
        process = await bench.start("/tmp/plain")  # noqa: S108
        assert (await process.wait()).code == 126
        assert bench.stderr

    async def test_a_signal_reaches_the_command(self, bench: Bench) -> None:
        process = await bench.sh(
            "trap 'echo got; exit 5' USR1; echo > /tmp/ready; while :; do sleep 0.05; done"
        )
        await until(lambda: self.exists(bench, "/tmp/ready"))  # noqa: S108
        await process.signal(10)
        async with asyncio.timeout(PATIENCE_SECONDS):
            end = await process.wait()
        assert (end.code, bench.stdout) == (5, b"got\n")

    async def test_a_terminal_has_the_size_asked_for(self, runtime: Runtime, bench: Bench) -> None:
        if Capability.TTY not in runtime.capabilities:
            pytest.skip("this runtime has no terminals")
        process = await bench.sh(
            "stty size; read line; stty size", tty=True, rows=33, columns=77, stdin_open=True
        )
        seen = process.progress()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"33 77" not in bench.stdout:
                seen = await process.changed(seen)
            await process.resize(rows=40, columns=100)
            await process.write_stdin(b"go\n", offset=0)
            await process.wait()
        assert b"40 100" in bench.stdout

    async def test_a_command_runs_as_the_user_asked_for(self, bench: Bench) -> None:
        await bench.run("id -u; id -g", uid=1234, gid=4321)
        assert bench.stdout == b"1234\n4321\n"

    async def test_nothing_of_this_process_is_inherited(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAAS_TEST_SECRET", "hidden")
        await bench.run("env")
        assert b"hidden" not in bench.stdout

    async def test_sandboxes_do_not_see_each_other(
        self, runtime: Runtime, bench: Bench, tmp_path: Path
    ) -> None:
        await bench.run("echo secret > /tmp/secret")
        other = await runtime.create(self.spec())
        second = Bench(other, tmp_path)
        try:
            end = await second.run("cat /tmp/secret")
        finally:
            await other.destroy("test")
        assert end.code == 1

    async def test_without_network_there_is_only_the_loopback(self, bench: Bench) -> None:
        await bench.run("cat /proc/net/dev")
        names = [line.split(b":")[0].strip() for line in bench.stdout.splitlines() if b":" in line]
        assert names == [b"lo"]

    async def exists(self, bench: Bench, path: str) -> bool:
        """Say whether a file is there."""
        try:
            await bench.sandbox.stat(path)
        except NotFoundError:
            return False
        return True

    async def assert_never_appears(self, bench: Bench, path: str) -> None:
        """Give an escapee more than the time it needs."""
        await asyncio.sleep(1.3)
        assert not await self.exists(bench, path)
