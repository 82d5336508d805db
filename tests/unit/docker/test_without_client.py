"""The docker runtime can be loaded, and says what is missing, where the Engine's client is not."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["aiohttp"] = sys.modules["aiodocker"] = None
import faas.assembly, faas.docker.runtime, faas.cli.serve
"""


def test_the_runtime_is_loaded_without_the_engines_client() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
