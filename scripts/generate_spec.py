"""Write `spec/openapi.json` and `spec/errors.yaml` from the code. Tests compare them with it."""

from pathlib import Path

from faas import __version__, errors
from faas.cli.exits import exit_code
from faas.gateway import problems
from faas.gateway.docs import document
from faas.gateway.settings import GatewaySettings

ROOT = Path(__file__).parent.parent
HEADER = """\
# Every error of the platform, made by scripts/generate_spec.py from src/faas/errors.py and
# src/faas/gateway/problems.py. SDKs read it in their tests.
"""


def every_error() -> list[type[errors.FaasError]]:
    """All classes of the tree in the order they are written, the root left out."""
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.FaasError)
        and kind is not errors.FaasError
    ]


def rows(kinds: tuple[type[errors.FaasError], ...] | list[type[errors.FaasError]]) -> str:
    """Render classes as YAML."""
    return "".join(_row(kind) for kind in kinds)


def _row(kind: type[errors.FaasError]) -> str:
    meaning = " ".join((kind.__doc__ or "").split()).replace('"', r"\"")
    failure = kind.__new__(kind)
    return (
        f"  - code: {kind.code}\n"
        f"    class: {kind.__name__}\n"
        f"    parent: {kind.__mro__[1].__name__}\n"
        f"    status: {problems.status_of(kind)}\n"
        f"    exit: {exit_code(failure)}\n"
        f"    retryable: {str(kind.retryable).lower()}\n"
        f'    meaning: "{meaning}"\n'
    )


def errors_yaml() -> str:
    """Render the whole table."""
    return (
        f"{HEADER}errors:\n{rows(every_error())}"
        "# Failures that only an HTTP request can have.\n"
        f"http_only:\n{rows(problems.HTTP_ONLY)}"
    )


def main() -> None:
    """Write both files."""
    (ROOT / "spec/errors.yaml").write_text(errors_yaml())
    (ROOT / "spec/openapi.json").write_bytes(document(GatewaySettings(version=__version__)))


if __name__ == "__main__":
    main()
