"""Which transaction used a nonce up, found by looking into the block that did it.

That a nonce is used and no receipt of ours is there does not say that another transaction used it:
a node may count a transaction before it has its receipt, and of two nodes behind one address the
one may be ahead. Who signs anew on that submits twice. The block itself cannot be mistaken.
"""

from __future__ import annotations

from typing import Optional

from faas_sdk.tangle._node import Node, NodeRefusedError


async def used_by(node: Node, account: str, nonce: int) -> Optional[bytes]:
    """Say the hash of the transaction that used a nonce; None when that cannot be said (yet)."""
    try:
        number = await _block_of(node, account, nonce)
        if number is None:
            return None
        for each in await node.transactions(number):
            if each.nonce == nonce and each.sender.lower() == account.lower():
                return each.hash
    except NodeRefusedError:
        return None  # It has no state that old, or the block is gone.
    return None


async def _block_of(node: Node, account: str, nonce: int) -> Optional[int]:
    async def is_used(at: int) -> bool:
        return await node.transaction_count_at(account, at) > nonce

    used = (await node.head()).number
    if not await is_used(used):
        return None
    # It was mostly not long ago: the steps back double.
    step, unused = 1, used - 1
    while unused >= 0 and await is_used(unused):
        used, unused, step = unused, unused - 2 * step, 2 * step
    unused = max(unused, -1)
    while used - unused > 1:
        middle = (used + unused) // 2
        if await is_used(middle):
            used = middle
        else:
            unused = middle
    return used
