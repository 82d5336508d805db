"""Approves requests for services that name this operator, from requesters it was told to serve.

Whether a request names us and is still open, Tangle says: an approval that would be refused is not
sent. The last blocks are looked through again with each round, so a reorg or a restart misses none.
"""

from dataclasses import dataclass, field
from typing import Final

from eth_utils.address import to_checksum_address

from faas import logs
from faas.chain.contract import Contracts, Manager, Tangle, word
from faas.chain.rpc import LogEntry, RevertedError
from faas.chain.sender import Sender

ANYBODY: Final = "any"
_APPROVAL_REST: Final[tuple[object, ...]] = ((), (0,) * 4, (0,) * 2, ())
"""No commitments beyond the protocol's own, no BLS key, no evidence of a trusted machine."""
_OPEN_BLOCKS: Final = 2000
"""Requests are open for an hour; what public nodes search at once."""

_log = logs.bind(__name__)


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """Whom to serve."""

    requesters: frozenset[str]
    """Addresses; `any` for everybody."""
    blocks_back: int = _OPEN_BLOCKS

    def allows(self, requester: str) -> bool:
        """Whether to serve them."""
        return ANYBODY in self.requesters or requester in self.requesters


@dataclass(slots=True)
class Approver:
    """Approves by a policy."""

    contracts: Contracts
    sender: Sender
    operator: str
    policy: ApprovalPolicy
    approved: int = 0
    passed_over: int = 0
    _known: set[tuple[int, bytes]] = field(default_factory=set[tuple[int, bytes]])

    async def look(self) -> None:
        """Look through the last blocks, and approve what is to be approved."""
        node = self.contracts.node
        head = (await node.head()).block.number
        blueprint = await self.contracts.ask_manager(Manager.BLUEPRINT_ID)
        entries = await node.all_logs(
            self.contracts.tangle,
            (Tangle.SERVICE_REQUESTED.topic, None, word(blueprint)),
            first=max(0, head - self.policy.blocks_back),
            last=head,
        )
        # A request of a block that a reorg took is another one when it comes back.
        seen = {(int.from_bytes(entry.topics[1]), entry.block.hash): entry for entry in entries}
        self._known &= set(seen)
        for key, entry in seen.items():
            if key not in self._known:
                await self._judge(key[0], entry)
                self._known.add(key)

    async def _judge(self, request: int, entry: LogEntry) -> None:
        requester = to_checksum_address(entry.topics[3][-20:])
        if not self.policy.allows(requester) or Tangle.SERVICE_REQUESTED.decode(entry)[0] != 0:
            self.passed_over += 1
            _log.info("a service request is passed over", request=request, requester=requester)
            return
        data = Tangle.APPROVE_SERVICE.encode((request, *_APPROVAL_REST))
        try:
            await self.sender.do(self.contracts.tangle, data, await self.contracts.node.head())
        except RevertedError as failure:
            # Not named in it, approved before, or too late.
            _log.debug("a service request is not ours", request=request, why=str(failure))
            return
        self.approved += 1
        _log.info("a service request was approved", request=request, requester=requester)
