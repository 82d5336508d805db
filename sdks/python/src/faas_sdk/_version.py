"""The version, in one place for code; `pyproject.toml` is held to it by a test."""

VERSION = "0.1.0"
