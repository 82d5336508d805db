"""Write the generated pages of `docs/reference` from the code. Tests compare them with it."""

from pathlib import Path

import yaml

from faas.chain import alerts
from faas.cli.config import reference_page

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


def errors_page() -> str:
    """The error table, from `spec/errors.yaml`."""
    lines = [
        "# Errors",
        "",
        "Every answer that is not a success is `application/problem+json` with one of these codes;",
        "the SDKs raise a class of the same name, the command line exits with the code given here.",
        "A command that fails is none of these: it is a result. `hint` says what to do, `trace_id`",
        "finds the request in the logs, `details` holds what a program may want to read.",
        "",
        "This page is made from `spec/errors.yaml` by `make docs`.",
        "",
        "| code | HTTP | exit | try again | meaning |",
        "|---|--:|--:|---|---|",
    ]
    for row in yaml.safe_load((ROOT / "spec" / "errors.yaml").read_text())["errors"]:
        again = "yes" if row["retryable"] else "no"
        lines.append(
            f"| `{row['code']}` | {row['status']} | {row['exit']} | {again} | {row['meaning']} |"
        )
    return "\n".join(lines) + "\n"


PAGES = {
    "configuration.md": lambda: reference_page() + "\n",
    "errors.md": errors_page,
    "operator-metrics.md": alerts.page,
    "../../packaging/operator-alerts.yml": alerts.rules,
}


def main() -> None:
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make())


if __name__ == "__main__":
    main()
