import subprocess
import sys

SCRIPT = """
import resource
from faas.cli.descriptors import raise_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
raise_limit()
raise_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_a_gateway_has_as_many_descriptors_as_the_machine_lets_it() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
