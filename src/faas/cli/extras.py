"""Parts of the platform that are installed only where they are used."""

from importlib.util import find_spec

from faas.errors import InvalidConfigError


def require_tangle() -> None:
    """Refuse to go on without what the chain needs.

    Raises:
        InvalidConfigError: the extra is not installed.
    """
    if missing := [name for name in ("coincurve", "eth_abi", "rlp") if find_spec(name) is None]:
        raise InvalidConfigError(
            f"the chain needs packages that are not installed: {', '.join(missing)}",
            hint="pip install '.[tangle]', or make dev in a checkout",
        )
