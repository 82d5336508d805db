"""What forge says of the contracts, and that what we ship was built from them."""

import pytest
from tests.chain.conftest import ROOT, run_script


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_contracts_pass_their_own_tests_and_the_committed_abi_is_fresh(forge_build):
    checked = run_script("check", timeout=380)
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-3000:]


def test_setting_up_twice_does_no_harm(forge_build):
    again = run_script("setup")
    assert (again.returncode, again.stdout) == (0, "")
    assert (forge_build / "FaaSBlueprint.sol").is_dir()


def test_lock_file_names_no_registry():
    lock = (ROOT / "contracts" / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert "://" not in lock
