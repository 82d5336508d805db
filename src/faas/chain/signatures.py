"""Who signed a personal message (EIP-191) of 32 bytes."""

from typing import Final

from coincurve import PublicKey
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from faas.errors import DataLossError

_SIGNATURE_BYTES: Final = 65


def message_hash(digest: bytes) -> bytes:
    """What is signed when 32 bytes are signed as a personal message."""
    return keccak(b"\x19Ethereum Signed Message:\n32" + digest)


def signer_of_message(digest: bytes, signature: bytes) -> str:
    """The account whose signature it is.

    Raises:
        DataLossError: it is nobody's.
    """
    key = public_key_of_message(digest, signature)
    return to_checksum_address(keccak(key[1:])[-20:])


def public_key_of_message(digest: bytes, signature: bytes) -> bytes:
    """The uncompressed public key of who signed, 65 bytes.

    Raises:
        DataLossError: it is nobody's.
    """
    if len(signature) != _SIGNATURE_BYTES or signature[64] not in (0, 1, 27, 28):
        raise DataLossError("the signature has another form")
    recoverable = signature[:64] + bytes([signature[64] % 27])
    try:
        key = PublicKey.from_signature_and_message(recoverable, message_hash(digest), hasher=None)
    except Exception as error:
        raise DataLossError("the signature is nobody's") from error
    return key.format(compressed=False)
