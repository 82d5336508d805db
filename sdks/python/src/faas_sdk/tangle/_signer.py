"""Who signs: a key in this process, a keystore on disk, or anything of your own."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Protocol, Tuple, Union, cast

from eth_account import Account
from eth_account.messages import encode_defunct

from faas_sdk._errors import InvalidArgumentError, InvalidConfigError

if TYPE_CHECKING:
    from eth_account.signers.base import BaseAccount

    SignerLike = Union["Signer", BaseAccount, str, bytes]

_KEY_DIGITS = 64


class Signer(Protocol):
    """Signs transactions for one account."""

    @property
    def address(self) -> str:
        """The account."""
        ...

    def sign(self, fields: Dict[str, Any]) -> Tuple[bytes, bytes]:
        """Sign a transaction; returns its bytes and its hash."""
        ...


class LocalSigner:
    """A key in this process."""

    def __init__(self, account: Any) -> None:
        self._account = account

    @property
    def address(self) -> str:
        """The account."""
        return str(self._account.address)

    def sign(self, fields: Dict[str, Any]) -> Tuple[bytes, bytes]:
        """Sign a transaction; returns its bytes and its hash."""
        signed = self._account.sign_transaction(fields)
        return bytes(signed.raw_transaction), bytes(signed.hash)

    def sign_message(self, digest: bytes) -> bytes:
        """Sign 32 bytes as a personal message (EIP-191); 65 bytes."""
        return bytes(self._account.sign_message(encode_defunct(digest)).signature)


def sign_message(signer: Signer, digest: bytes) -> bytes:
    """Sign 32 bytes as a personal message (EIP-191), which a signer of your own may not do.

    Raises:
        InvalidArgumentError: it does not.
    """
    sign = getattr(signer, "sign_message", None)
    if sign is None:
        raise InvalidArgumentError("this signer signs no messages: give it a `sign_message`")
    return bytes(sign(digest))


def read_key_file(path: Union[str, Path], password: Optional[str] = None) -> Signer:
    """Read a keystore of version 3, or a file with a bare key.

    Raises:
        InvalidConfigError: it cannot be read, others may read it, or the password is wrong.
    """
    place = Path(path)
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        text = place.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise InvalidConfigError(f"the key file {path} cannot be read") from failure
    if mode & 0o077:
        raise InvalidConfigError(
            f"the key file {path} may be read by others (mode {mode:o})", hint=f"chmod 600 {path}"
        )
    if len(text.removeprefix("0x")) == _KEY_DIGITS:
        return _of_key(text)
    try:
        return _of_key(bytes(cast("Any", Account).decrypt(text, password or "")))
    except (ValueError, KeyError, TypeError):
        # The reason may quote the key: it is not passed on.
        raise InvalidConfigError(f"the key file {path} does not open: wrong password?") from None


def as_signer(given: SignerLike) -> Signer:
    """Take a key, an account of eth-account, or a signer of the caller's own.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    if isinstance(given, (str, bytes)):
        return _of_key(given)
    if hasattr(given, "sign_transaction"):
        return LocalSigner(given)
    if hasattr(given, "sign") and hasattr(given, "address"):
        return cast("Signer", given)
    raise InvalidArgumentError(
        "that cannot sign", hint="pass a private key, an eth-account account, or read_key_file(...)"
    )


def _of_key(key: Union[str, bytes]) -> Signer:
    try:
        return LocalSigner(cast("Any", Account).from_key(key))
    except (ValueError, TypeError):
        raise InvalidArgumentError("that is no private key") from None
