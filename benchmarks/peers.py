"""The field side by side: one command in a fresh sandbox, output read, all removed."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable

from benchmarks.harness import Report, alternate, gateway

BWRAP = [
    "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr",
    "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
]  # fmt: skip
DOCKER = ["docker", "run", "--rm", "--network", "none", "alpine:latest"]
PYTHON = "/usr/bin/python3"
LLM_ECHO = "llm-sandbox, bubblewrap backend, in process: echo"
LLM_PYTHON = "llm-sandbox, bubblewrap backend, in process: python print(1)"


def _check(*command: str) -> Callable[[], object]:
    bare = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ
    }
    return lambda: subprocess.run(command, stdout=subprocess.PIPE, check=True, env=bare)


def _docker_works() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run([*DOCKER, "true"], capture_output=True, check=False).returncode == 0


def _llm_sandbox() -> dict[str, Callable[[], object]]:
    """One command, and one program, each in a session of its own; none when not installed."""
    if importlib.util.find_spec("llm_sandbox") is None:
        return {}
    from llm_sandbox import SandboxBackend, SandboxSession  # noqa: PLC0415  an optional peer

    def session() -> SandboxSession:
        return SandboxSession(
            backend=SandboxBackend.BUBBLEWRAP, lang="python", skip_environment_setup=True
        )

    def echo() -> object:
        with session() as opened:
            answer = opened.execute_command("/bin/echo hi")
            if answer.stdout.strip() != "hi":
                raise RuntimeError(f"llm-sandbox said {answer}")
            return answer

    def program() -> object:
        with session() as opened:
            answer = opened.run("print(1)")
            if answer.stdout.strip() != "1":
                raise RuntimeError(f"llm-sandbox said {answer}")
            return answer

    return {LLM_ECHO: echo, LLM_PYTHON: program}


def run(count: int) -> Report:
    """Alternating rounds; what is not installed is named as not measured."""
    report = Report("Peers: one command in a fresh sandbox, everything removed afterwards")
    missing: list[str] = []
    with gateway(pool_size=8) as target, gateway(pool_size=0, pool_max=0) as cold:
        client, demand = target.client(), cold.client()
        echo: dict[str, Callable[[], object]] = {
            "ours, pool, over HTTP: echo": lambda: client.execute(["/bin/echo", "hi"]),
            "ours, no pool, over HTTP: echo": lambda: demand.execute(["/bin/echo", "hi"]),
        }
        python: dict[str, Callable[[], object]] = {
            "ours, pool, over HTTP: python print(1)": lambda: client.execute(
                [PYTHON, "-c", "print(1)"]
            ),
            "bare interpreter, no isolation": _check(PYTHON, "-c", "print(1)"),
        }
        if shutil.which("bwrap"):
            echo["bwrap, all namespaces: echo"] = _check(*BWRAP, "/bin/echo", "hi")
            python["bwrap, all namespaces: python print(1)"] = _check(
                *BWRAP, PYTHON, "-c", "print(1)"
            )
        else:
            missing.append("bwrap (apt-get install bubblewrap)")
        if llm_sandbox := _llm_sandbox():
            echo[LLM_ECHO] = llm_sandbox[LLM_ECHO]
            python[LLM_PYTHON] = llm_sandbox[LLM_PYTHON]
        else:
            missing.append("llm-sandbox (pip install llm-sandbox)")
        fast_echo = alternate(echo, count=count, pause_seconds=0.02)
        fast_python = alternate(python, count=min(count, 100), pause_seconds=0.02)
        slow = []
        if _docker_works():
            slow = alternate(
                {
                    "docker run --rm --network none: echo": _check(*DOCKER, "/bin/echo", "hi"),
                    "ours, pool, over HTTP: echo (docker's rounds)": lambda: client.execute(
                        ["/bin/echo", "hi"]
                    ),
                },
                count=min(count, 30),
                warmup=2,
            )
        else:
            missing.append("docker (an Engine with alpine:latest; scripts/docker_engine.sh)")
    report.samples(*fast_echo, *fast_python, *slow)
    _claims(report, {s.name: s.p50 for s in (*fast_echo, *fast_python, *slow)})
    for name in missing:
        report.note(f"Not measured here: {name}.")
    return report


def _claims(report: Report, p50: dict[str, float]) -> None:
    ours, ours_python = "ours, pool, over HTTP: echo", "ours, pool, over HTTP: python print(1)"
    pairs = {
        "docker run / ours": (
            "docker run --rm --network none: echo", f"{ours} (docker's rounds)", 30),
        "llm-sandbox bubblewrap / ours (echo)": (LLM_ECHO, ours, 5),
        "llm-sandbox bubblewrap / ours (python, most of both is its start)": (
            LLM_PYTHON, ours_python, 1),
        "bwrap / ours (echo)": ("bwrap, all namespaces: echo", ours, 1),
        "bwrap / ours without pool (echo)": (
            "bwrap, all namespaces: echo", "ours, no pool, over HTTP: echo", 1),
    }  # fmt: skip
    for text, (theirs, mine, limit) in pairs.items():
        if theirs in p50:
            report.claim(text, value=p50[theirs] / p50[mine], limit=limit, at_least=True)
