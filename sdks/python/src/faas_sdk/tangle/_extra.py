"""Says what is missing when the packages of the extra are not there."""

try:
    import eth_abi
    import eth_account
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "faas_sdk.tangle needs packages of its own: pip install 'faas-sdk[tangle]'",
        name=missing.name,
    ) from None

__all__ = ["eth_abi", "eth_account"]
