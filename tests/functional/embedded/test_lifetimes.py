"""Creation, death, adoption and reclaim, with everything counted."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from tests.plugins.embedded import HOST, Embedded

from faas.embedded.run_dir import run_dirs
from faas.errors import FaasError, RuntimeUnavailableError, SandboxBrokenError
from faas.ids import SandboxId, new_sandbox_id
from faas.model import ExitReason, Limits
from faas.sandbox.protocols import Command, RootFilesystem, SandboxSpec

pytestmark = pytest.mark.needs_root

GATEWAY = """
import asyncio, sys
from pathlib import Path
from faas.sandbox.protocols import Command
from tests.plugins.embedded import Embedded

async def main():
    embedded = Embedded(Path(sys.argv[1]), tag=sys.argv[2])
    await embedded.runtime.start()
    box = await embedded.sandbox()
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.05; done; exit 7"
    output = embedded.output()
    await box.start("main", Command(("/bin/sh", "-c", script)), output)
    spare = await embedded.sandbox()
    print(box.id, spare.id, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def first_sandboxes(embedded):
    """Run a gateway in another process until it has sandboxes, then kill it without a word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        GATEWAY,
        str(embedded.data_dir),
        embedded.tag,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    process.kill()
    await process.wait()
    return [SandboxId(word) for word in line.decode().split()]


async def test_a_killed_gateways_command_is_taken_back_with_its_whole_output(embedded):
    busy, _ = await first_sandboxes(embedded)
    box = await embedded.runtime.adopt(busy)
    process = await box.attach("main")
    ended = await process.wait()
    assert (ended.code, ended.reason) == (7, ExitReason.EXITED)
    spooled = (embedded.data_dir / "spool/1.out").read_text()
    assert spooled.split() == [str(number) for number in range(1, 11)]
    assert ended.stdout_kept_bytes == len(spooled)
    await box.destroy("tested")
    await embedded.runtime.reclaim(keep=set())


async def test_a_command_that_ended_while_no_gateway_lived_is_still_known(embedded):
    busy, _ = await first_sandboxes(embedded)
    await asyncio.sleep(1.0)
    box = await embedded.runtime.adopt(busy)
    process = await box.attach("main")
    assert (await process.wait()).code == 7
    assert process.progress().is_ended
    await embedded.runtime.reclaim(keep=set())


async def test_an_adopted_sandbox_is_whole(embedded):
    _, spare = await first_sandboxes(embedded)
    box = await embedded.runtime.adopt(spare)
    assert (box.id, box.image_digest, box.isolation) == (
        spare,
        "host",
        "namespaces+userns+seccomp",
    )
    assert await box.attach("never") is None
    assert (await embedded.sh(box, "echo $HOME")).text == "/root\n"
    await embedded.runtime.reclaim(keep=set())


async def test_reclaim_takes_what_nobody_adopts_and_keeps_the_rest(embedded):
    busy, spare = await first_sandboxes(embedded)
    report = await embedded.runtime.reclaim(keep={busy})
    assert (report.sandboxes, report.processes) == (1, 1)
    assert report.cgroups >= 1
    assert await embedded.runtime.adopt(spare) is None
    assert await embedded.runtime.adopt(busy) is not None


async def test_new_sandboxes_do_not_share_users_with_survivors(embedded):
    await first_sandboxes(embedded)
    fresh = embedded.new_runtime()
    await fresh.start()
    box = await fresh.create(SandboxSpec(new_sandbox_id(), HOST))
    metas = [run_dir.meta() for run_dir in run_dirs(embedded.data_dir / "run")]
    slots = [meta.slot for meta in metas]
    assert len(slots) == len(set(slots)) == 3
    await box.destroy("tested")
    await fresh.aclose()
    await embedded.runtime.reclaim(keep=set())


async def test_creation_on_a_missing_image_leaves_nothing(embedded):
    missing = RootFilesystem("sha256:0", embedded.data_dir / "missing")
    with pytest.raises(SandboxBrokenError) as caught:
        await embedded.sandbox(root=missing)
    assert str(embedded.data_dir) not in caught.value.message
    assert run_dirs(embedded.data_dir / "run") == []


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 5, 8])
async def test_a_cancelled_creation_leaves_nothing(embedded, milliseconds):
    creating = asyncio.ensure_future(embedded.sandbox())
    await asyncio.sleep(milliseconds / 1000)
    creating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        box = await creating
        await box.destroy("it was quicker")
    await embedded.runtime.start()
    assert run_dirs(embedded.data_dir / "run") == []


async def test_sandboxes_are_made_side_by_side(embedded):
    boxes = await asyncio.gather(*(embedded.sandbox() for _ in range(12)))
    said = await asyncio.gather(*(embedded.sh(box, f"echo {i}") for i, box in enumerate(boxes)))
    assert [ran.text for ran in said] == [f"{number}\n" for number in range(12)]
    await asyncio.gather(*(box.destroy("tested") for box in boxes))


async def test_the_death_of_the_launcher_touches_no_sandbox(embedded, sandbox):
    os.kill(embedded.runtime._launcher.pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    assert (await embedded.sh(sandbox, "echo alive")).text == "alive\n"
    another = await embedded.sandbox()
    assert (await embedded.sh(another, "echo again")).text == "again\n"
    await another.destroy("tested")


async def test_the_death_of_a_sandbox_ends_what_waits(embedded, sandbox):
    output = embedded.output()
    process = await sandbox.start("main", Command(("sleep", "60")), output)
    waiting = asyncio.ensure_future(process.wait())
    assert embedded.runtime._sandboxes[sandbox.id].is_alive
    pid = int((embedded.data_dir / "run" / sandbox.id / "pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SandboxBrokenError):
        await waiting
    assert not sandbox.is_alive


async def test_destroy_ends_everything_inside(embedded, sandbox):
    output = embedded.output()
    await sandbox.start("main", Command(("/bin/sh", "-c", "setsid sleep 99 & sleep 99")), output)
    await sandbox.destroy("tested")
    assert {x for x in embedded.runtime._cgroups.names() if not x.startswith("spare-")} == set()


async def test_closing_leaves_running_what_is_asked_to_be_left(embedded):
    box = await embedded.sandbox()
    await embedded.runtime.aclose(leave_running={box.id})
    later = embedded.new_runtime()
    await later.start()
    again = await later.adopt(box.id)
    assert (await embedded.sh(again, "echo back")).text == "back\n"
    await later.aclose()


async def test_a_probe_runs_something(embedded):
    report = await embedded.runtime.probe()
    assert report.is_available, report.detail
    assert report.limits.startswith(("cgroup-v1", "cgroup-v2"))
    assert report.duration_ms > 0


async def test_a_missing_program_is_said_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.plugins.embedded.packaged_binary", lambda: tmp_path / "missing")
    runtime = Embedded(tmp_path).new_runtime()
    with pytest.raises(RuntimeUnavailableError):
        await runtime.start()
    report = await runtime.probe()
    assert not report.is_available
    assert "make native" in report.hint
    await runtime.aclose()


async def test_without_groups_rlimits_hold(nothing_left):
    with tempfile.TemporaryDirectory(prefix="faas-test-") as directory:
        bare = Embedded(Path(directory), cgroup_policy="none")
        nothing_left(tag=bare.tag, data_dir=bare.data_dir)
        await bare.runtime.start()
        box = await bare.sandbox(limits=Limits(memory_bytes=64 << 20, pids_max=16))
        hungry = await bare.python(box, "bytearray(300 << 20)")
        assert b"MemoryError" in hungry.stderr
        report = await bare.runtime.probe()
        assert report.limits == "rlimits only"
        await bare.runtime.aclose()


NOBODY = 65534
NON_ROOT = """
import asyncio, sys
from pathlib import Path
from tests.plugins.embedded import Embedded

async def main():
    embedded = Embedded(Path(sys.argv[1]), tag=sys.argv[2])
    report = await embedded.runtime.probe()
    print(report)
    if report.is_available:
        box = await embedded.sandbox()
        ran = await embedded.sh(box, "id -u; echo x > /tmp/x; cat /tmp/x; touch /usr/x")
        print(ran)
    await embedded.runtime.aclose()

asyncio.run(main())
"""


def public_copy(target):
    """Copy what a user without root needs: this interpreter or checkout may be private to root."""
    here = Path(__file__).parents[3]
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(here / "src/faas", target / "lib/faas", ignore=ignore)
    shutil.copytree(here / "tests/plugins", target / "lib/tests/plugins", ignore=ignore)
    package = Path(msgspec.__file__).parent
    shutil.copytree(package, target / "lib/msgspec", ignore=ignore)
    for path in [target, *target.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)


def public_python():
    """An interpreter of our own version that anybody may run."""
    for name in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        path = Path(name).resolve()
        if path.exists() and all(parent.stat().st_mode & 0o001 for parent in path.parents):
            version = subprocess.run(
                [path, "-c", "import sys; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=True,
            )
            if version.stdout.split() == [str(part) for part in sys.version_info[:2]]:
                return path
    return pytest.skip("no interpreter of this version that a user without root may run")


async def test_a_host_user_without_root_has_sandboxes_too(nothing_left):
    python = public_python()
    with tempfile.TemporaryDirectory(prefix="faas-test-") as directory:
        tag = secrets.token_hex(4)
        public_copy(Path(directory))
        nothing_left(tag=tag, data_dir=Path(directory))
        done = await asyncio.to_thread(
            subprocess.run,
            [python, "-c", NON_ROOT, directory, tag],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd=directory,
            env={"PYTHONPATH": f"{directory}/lib", "HOME": directory},
            check=False,
            timeout=60,
        )
    assert "is_available=True" in done.stdout, done.stdout + done.stderr
    assert "userns-single" in done.stdout
    assert "0\nx\n" in done.stdout
    assert "Read-only" in done.stdout


async def test_an_error_names_no_path(embedded):
    spec = SandboxSpec(new_sandbox_id(), RootFilesystem("sha256:0", Path("/nonexistent/x")))
    with pytest.raises(FaasError) as caught:
        await embedded.runtime.create(spec)
    assert "/" not in caught.value.message
