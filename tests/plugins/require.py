"""`--require root,docker,tools`: a part that is missing is a failure, not a skip.

A name stands for the marker `needs_<name>`; `tools` for every skip without such a marker.
So in CI nothing is silently untested, while on a laptop the same tests skip and say why.
"""

import pytest

_TOOLS = "tools"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help="comma list of parts that must be there: root, docker, criu, kvm, tools",
    )


def pytest_configure(config: pytest.Config) -> None:
    known = {
        line.partition(":")[0].removeprefix("needs_")
        for line in config.getini("markers")
        if line.startswith("needs_")
    }
    unknown = required(config) - known - {_TOOLS}
    if unknown:
        raise pytest.UsageError(f"--require names unknown parts: {', '.join(sorted(unknown))}")


def required(config: pytest.Config) -> set[str]:
    names = str(config.getoption("--require")).split(",")
    return {name.strip() for name in names if name.strip()}


def parts_of(item: pytest.Item) -> set[str]:
    """Which parts a test says it needs; `tools` when it says none."""
    named = {
        marker.name.removeprefix("needs_")
        for marker in item.iter_markers()
        if marker.name.startswith("needs_")
    }
    return named or {_TOOLS}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        missing = parts_of(item) & required(item.config)
        if missing:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"required here ({', '.join(sorted(missing))}), but: {reason}"
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    # A module that skips itself while it is collected has no items to fail.
    if report.skipped and _TOOLS in _required_of_session:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped as a whole, but --require tools was given"


_required_of_session: set[str] = set()


def pytest_sessionstart(session: pytest.Session) -> None:
    _required_of_session.update(required(session.config))
