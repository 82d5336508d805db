"""A key in another process: web3signer, a geth or clef, or whatever speaks their JSON-RPC.

`eth_signTransaction`, `eth_sign` and `eth_signTypedData` are asked for, and nothing is believed: a
signed transaction has to be the one that was asked for, a signature that of the operator's account.
The signer gives no secrets away, so sealed payloads cannot be opened.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from faas.chain.journal import SignedTransaction
from faas.chain.rpc import Node, NodeRefusedError, RevertedError
from faas.chain.signatures import public_key_of_message, signer_of_message
from faas.chain.wallet import Registration, Transaction, fields_of, read_transaction
from faas.errors import ChainUnavailableError, FaasError, UnavailableError

_PROBE: Final = keccak(b"which key is this?")
_DOMAIN: Final = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]


class RemoteWallet:
    """One account of a signer."""

    def __init__(self, url: str, address: str, *, chain_id: int) -> None:
        self._signer = Node(url)
        self._address = to_checksum_address(address)
        self._chain_id = chain_id

    async def aclose(self) -> None:
        """Close the connections."""
        await self._signer.aclose()

    @property
    def address(self) -> str:
        """The account."""
        return self._address

    async def sign(self, transaction: Transaction) -> SignedTransaction:
        """Have a transaction signed.

        Raises:
            UnavailableError: the signer does not answer, refuses, or signs something else.
        """
        fields = fields_of(transaction, self._chain_id)
        asked = {"from": self._address, "to": transaction.to, "data": _hex(transaction.data)}
        for name in ("type", "chainId", "value", "gas", "nonce"):
            asked[name] = hex(fields[name])
        for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
            asked[name] = hex(fields[name])
        answer = await self._ask("eth_signTransaction", asked)
        if isinstance(answer, dict):  # geth answers with the transaction beside its bytes
            answer = cast("dict[str, Any]", answer).get("raw")
        raw = _bytes(answer)
        from eth_account import Account  # noqa: PLC0415  slow to import

        try:
            signer = cast("Any", Account).recover_transaction(HexBytes(raw))
            is_same = read_transaction(raw) == transaction and signer == self._address
        except Exception as failure:
            raise _wrong() from failure
        if not is_same:
            raise _wrong()
        return SignedTransaction(transaction.nonce, raw, keccak(raw))

    def read(self, signed: SignedTransaction) -> Transaction:
        """Take a signed transaction apart, to sign it again with other fees."""
        return read_transaction(signed.raw)

    async def sign_receipt(self, digest: bytes) -> bytes:
        """Have 32 bytes signed as a personal message; 65 bytes."""
        signature = _bytes(await self._ask("eth_sign", self._address, _hex(digest)))
        try:
            is_ours = signer_of_message(digest, signature) == self._address
        except FaasError as failure:
            raise _wrong() from failure
        if not is_ours:
            raise _wrong()
        return signature

    async def sign_typed(
        self, domain: Mapping[str, Any], types: Mapping[str, Any], value: Mapping[str, Any]
    ) -> bytes:
        """Have typed data signed; 65 bytes."""
        message: dict[str, Any] = {
            "types": {"EIP712Domain": _DOMAIN, **types},
            "domain": dict(domain),
            "primaryType": next(iter(types)),
            "message": {
                name: _hex(given) if isinstance(given, bytes) else given
                for name, given in value.items()
            },
        }
        signature = _bytes(await self._ask("eth_signTypedData_v4", self._address, message))
        from eth_account import Account  # noqa: PLC0415  slow to import
        from eth_account.messages import encode_typed_data  # noqa: PLC0415

        signable = encode_typed_data(full_message=message)
        if cast("Any", Account).recover_message(signable, signature=signature) != self._address:
            raise _wrong()
        return signature

    async def prove_key(self, *, tangle: str, blueprint: int) -> bytes:
        """The public key, and the proof that its owner registers here: 130 bytes."""
        # A signer tells no public keys, but any signature does.
        public_key = public_key_of_message(_PROBE, await self.sign_receipt(_PROBE))
        registration = Registration(self._chain_id, tangle, blueprint, self._address)
        return public_key + await self.sign_receipt(registration.digest(public_key))

    async def _ask(self, method: str, *params: object) -> Any:
        try:
            return await self._signer.request(method, *params)
        except ChainUnavailableError as failure:
            raise UnavailableError("the signer does not answer", hint="start it") from failure
        except (NodeRefusedError, RevertedError) as failure:
            raise UnavailableError(f"the signer refuses {method}: {failure}") from failure


def _wrong() -> UnavailableError:
    return UnavailableError(
        "the signer signed something else, or with another key",
        hint="is the operator's address an account of that signer, on this chain?",
    )


def _bytes(answer: object) -> bytes:
    try:
        return bytes.fromhex(str(answer).removeprefix("0x"))
    except ValueError as failure:
        raise _wrong() from failure


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
