"""What the documents show is what happens, and what they point at is there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.console import Step, steps
from tests.plugins.criu import criu_prefix
from tests.plugins.live_gateway import LiveGateway, live_gateway

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHOWN = [
    ROOT / "README.md",
    ROOT / "docs/tutorial/first-run.md",
    ROOT / "docs/how-to/instances.md",
    ROOT / "docs/how-to/ports.md",
    ROOT / "docs/how-to/state.md",
    pytest.param(ROOT / "docs/how-to/memory.md", marks=pytest.mark.needs_criu),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    prefix = criu_prefix()
    with live_gateway(**({} if prefix is None else {"FAAS_CRIU_PREFIX": str(prefix)})) as running:
        yield running


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("document", SHOWN, ids=lambda path: path.name)
def test_what_a_document_shows_is_what_happens(
    document: Path, gateway: LiveGateway, tmp_path: Path
) -> None:
    found = steps(document)
    assert found
    if document.name == "memory.md" and criu_prefix() is None:
        pytest.skip("CRIU is not installed: scripts/criu.sh .faas/criu")
    remembered = tmp_path / "variables"
    remembered.touch()
    scripts = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if "FAAS_" not in name}
    environment |= {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "FAAS_GATEWAY_URL": gateway.url,
        "NO_COLOR": "1",
    }
    for step in found:
        command = step.command.replace("http://127.0.0.1:8080", gateway.url)
        # One shell for each step, as if it were one for all: a step that hangs hangs alone.
        script = f"set -a; . {remembered}; {{ {command}\n}}; export -p > {remembered}"
        done = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            text=True,
            timeout=60,
            check=False,
        )
        assert step.is_met_by(done.stdout), f"{document.name}:{step.line}: got {done.stdout!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} points at {target}"


def test_every_verb_a_document_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for line in re.findall(r"^\.PHONY: (.*(?:\\\n.*)*)", makefile, re.MULTILINE):
        verbs |= set(line.replace("\\", " ").split())
    for document in DOCUMENTS:
        for verb in re.findall(r"`make ([a-z]+)", document.read_text()):
            assert verb in verbs, f"{document.name} names make {verb}"


@pytest.mark.parametrize(
    ("shown", "output", "is_met"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\nc\n", False),
        ("id-… done\n", "id-123   done\n", True),
        ("", "", True),
        ("", "noise", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_the_comparison_can_fail(shown: str, output: str, *, is_met: bool) -> None:
    assert Step("x", shown, 1).is_met_by(output) is is_met
