"""Settings as they stand on a command line."""

from faas.errors import InvalidConfigError


def pairs(texts: tuple[str, ...]) -> dict[str, object]:
    """Take `--set NAME=VALUE` apart."""
    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidConfigError(f"--set {text!r} is not NAME=VALUE")
        found[name.strip().replace("-", "_")] = value
    return found
