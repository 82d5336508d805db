"""What the operator's parts need of a chain; the real one, and the simulated one of the tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from faas.chain.contract import ChainJob
from faas.chain.journal import Block, CallKey, SeenCall
from faas.chain.rpc import Head

Results = Sequence[tuple[CallKey, bytes]]
"""Results of calls of one service."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a mined transaction did to the calls it carried results of."""

    block: Block
    is_success: bool
    accepted: frozenset[CallKey] = frozenset()
    rejected: Mapping[CallKey, int] = field(default_factory=dict[CallKey, int])
    hook_failed: bool = False


@dataclass(frozen=True, slots=True)
class Nonces:
    """The account's next nonce as mined, and with what waits in the node's pool."""

    mined: int
    pending: int


class Chain(Protocol):
    """One node, the two contracts, and one operator's account."""

    @property
    def operator(self) -> str:
        """The account whose jobs these are."""
        ...

    @property
    def tangle(self) -> str:
        """Where results go."""
        ...

    async def head(self) -> Head:
        """The newest block."""
        ...

    async def block(self, number: int) -> Block | None:
        """One block of the node's present fork."""
        ...

    async def assigned(self, first: int, last: int) -> list[SeenCall]:
        """Calls that were given to this operator in these blocks, with their inputs."""
        ...

    async def job(self, key: CallKey, at: Block) -> ChainJob:
        """How the manager has a call as of a block."""
        ...

    async def is_spoilt(self, key: CallKey, at: Block) -> bool:
        """Whether no answer of this operator to this call is taken any more, as of a block."""
        ...

    def results_call(self, results: Results) -> bytes:
        """The call that hands in results."""
        ...

    async def gas_for(self, to: str, data: bytes) -> int:
        """Try a transaction of this operator.

        Raises:
            RevertedError: it would be refused.
        """
        ...

    async def priority_fee(self) -> int:
        """What to offer above the base fee."""
        ...

    async def nonces(self) -> Nonces:
        """The account's next nonces."""
        ...

    async def mined_at(self, block: Block) -> int:
        """How many transactions of the account are mined up to a block."""
        ...

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node.

        Raises:
            NodeRefusedError: the node does not take it; one it already has is no refusal.
        """
        ...

    async def settlement(self, digest: bytes) -> Settlement | None:
        """What a transaction did, when it is mined on the present fork."""
        ...
