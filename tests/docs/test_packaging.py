"""What is shipped beside the code is true."""

from pathlib import Path

from faas.config import Settings, load

PACKAGING = Path(__file__).parents[2] / "packaging"


def test_the_example_settings_file_is_accepted() -> None:
    load(environment={}, config_file=PACKAGING / "faas.toml")


def test_the_settings_in_comments_exist() -> None:
    for line in (PACKAGING / "faas.toml").read_text().splitlines():
        if line.startswith("# ") and " = " in line:
            name = line.removeprefix("# ").partition(" = ")[0].removesuffix("_file")
            assert hasattr(Settings(), name), line


def test_the_unit_leaves_sandboxes_alone_and_waits_out_the_drain() -> None:
    unit = dict(
        line.split("=", 1)
        for line in (PACKAGING / "faas.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert unit["KillMode"] == "process"
    assert unit["Delegate"] == "yes"
    assert float(unit["TimeoutStopSec"]) > Settings().drain_seconds
