"""What users import and call: names are promises."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import faas_sdk
from faas_sdk import FaaSClient, SyncFaaSClient

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "faas_sdk").glob("*.py"))

CONTRACT = {
    "execute",
    "execute_advanced",
    "run_python",
    "run_javascript",
    "run_typescript",
    "run_bash",
    "fork_execution",
    "create_snapshot",
    "list_snapshots",
    "restore_snapshot",
    "delete_snapshot",
    "create_instance",
    "list_instances",
    "stop_instance",
    "prewarm",
    "stream",
    "stream_logs",
    "get_execution",
    "list_executions",
    "cancel",
    "write_stdin",
    "wait",
    "submit",
    "list_images",
    "pull_image",
    "build_image",
    "import_image",
    "remove_image",
    "health_check",
    "get_metrics",
    "get_client_metrics",
    "on",
    "use_docker",
    "use_firecracker",
    "set_caching",
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_client_has_every_name_of_the_contract() -> None:
    assert public(FaaSClient) >= CONTRACT


def test_the_sync_twin_has_the_same_names_and_arguments() -> None:
    assert public(FaaSClient) - {"aclose"} == public(SyncFaaSClient) - {"close"}
    for name in CONTRACT:
        ours = list(inspect.signature(getattr(FaaSClient, name)).parameters)
        theirs = list(inspect.signature(getattr(SyncFaaSClient, name)).parameters)
        assert ours == theirs, name


def test_the_sync_twin_is_freshly_generated() -> None:
    script = ROOT / "scripts" / "generate_sync.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_async_is_left_in_the_sync_twin() -> None:
    for name in ("_sync.py", "_sync_images.py", "_sync_stream.py", "_sync_transport.py"):
        tree = ast.parse((ROOT / "src" / "faas_sdk" / name).read_text())
        kinds = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
        assert [node for node in ast.walk(tree) if isinstance(node, kinds)] == []


def test_all_lists_what_can_be_imported_and_nothing_private() -> None:
    for name in faas_sdk.__all__:
        assert hasattr(faas_sdk, name)
    errors = {
        name
        for name, value in vars(faas_sdk).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert errors <= set(faas_sdk.__all__)


def test_the_version_is_the_packages() -> None:
    line = f'version = "{faas_sdk.__version__}"'
    assert line in (ROOT / "pyproject.toml").read_text().splitlines()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_is_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if type(node).__name__ in ("Match", "TryStar")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {word.arg for word in node.keywords}
            assert not words & {"slots", "kw_only"}, f"dataclass options of 3.10 in {path.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_annotations_are_never_evaluated(path: Path) -> None:
    if path.name not in ("__init__.py", "_version.py"):
        assert "from __future__ import annotations" in path.read_text()
