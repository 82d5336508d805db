import subprocess
import sys

SCRIPT = """
import sys
sys.modules["eth_abi"] = None
try:
    import faas_sdk.tangle
except ModuleNotFoundError as missing:
    print(missing)
"""


def test_without_its_packages_it_says_how_to_get_them():
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    )
    assert "pip install 'faas-sdk[tangle]'" in said.stdout
