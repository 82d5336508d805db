"""CRIU for tests, as the project's own script installs it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def criu_prefix() -> Path | None:
    """Where it lies; None when `scripts/criu.sh` has not put it there."""
    prefix = Path(os.environ.get("FAAS_CRIU_PREFIX") or ROOT / ".faas" / "criu")
    return prefix if (prefix / "criu").is_file() else None
