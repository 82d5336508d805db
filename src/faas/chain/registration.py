"""Registers an operator for the manager's blueprint, with the proof that the key is its own."""

import asyncio
from typing import Final

from eth_abi.abi import encode

from faas.chain.contract import Contracts, Manager, Tangle
from faas.chain.wallet import Fees, Transaction, Wallet
from faas.errors import ChainUnavailableError

_POLLS_MAX: Final = 240
_POLL_SECONDS: Final = 0.5


async def register(
    contracts: Contracts,
    wallet: Wallet,
    *,
    capacity: int,
    rpc_address: str = "http://127.0.0.1",
) -> bool:
    """Register when that was not done before; whether it was done now.

    Raises:
        RevertedError: Tangle or the manager refused.
        ChainUnavailableError: it was not mined, or failed.
    """
    node = contracts.node
    blueprint = await contracts.ask_manager(Manager.BLUEPRINT_ID)
    if await contracts.ask_tangle(Tangle.IS_REGISTERED, blueprint, wallet.address):
        return False
    proof = await wallet.prove_key(tangle=contracts.tangle, blueprint=blueprint)
    inputs = encode(("uint256",), (capacity,))
    data = Tangle.REGISTER.encode(blueprint, proof, rpc_address, inputs)
    gas = await node.estimate_gas(contracts.tangle, data, sender=wallet.address)
    priority = await node.priority_fee()
    fees = Fees(2 * (await node.head()).base_fee + priority, priority)
    nonce = await node.transaction_count(wallet.address)
    signed = await wallet.sign(Transaction(contracts.tangle, data, gas * 5 // 4, nonce, fees))
    await node.send_raw(signed.raw)
    for _ in range(_POLLS_MAX):
        if receipt := await node.receipt(signed.hash):
            if receipt.is_success:
                return True
            break
        await asyncio.sleep(_POLL_SECONDS)
    raise ChainUnavailableError("the registration did not succeed")
