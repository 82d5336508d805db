"""Joins an operator's parts round its journal."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from faas.chain.approval import ApprovalPolicy, Approver
from faas.chain.carriage import Carriage, SharedStore
from faas.chain.codec import JobKind
from faas.chain.contract import Contracts, Manager
from faas.chain.daemon import Beside, DaemonSettings, Operator
from faas.chain.feed import Feed
from faas.chain.handlers import HANDLERS, JobRunner
from faas.chain.heads import NewHeads
from faas.chain.heartbeat import Heartbeat
from faas.chain.job_context import Executor, JobSettings
from faas.chain.journal import Journal
from faas.chain.quotes import QuoteDesk, QuoteSettings
from faas.chain.sealing import Opener
from faas.chain.sender import Sender, SendSettings
from faas.chain.tangle_chain import TangleChain
from faas.chain.wallet import LocalWallet, Wallet
from faas.chain.worker import Worker, WorkSettings
from faas.clock import Clock

_RUNNING_MAX: Final = 256
_LAG_SECONDS: Final = 15.0
"""A node behind a balancer catches up in a block or two; a chain that became shorter waits so."""


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """How an operator behaves."""

    first_block: int = 0
    confirmations: int = 1
    stateful_confirmations: int = 1
    result_confirmations: int = 1
    max_fee_wei: int = 200 * 10**9
    ws_url: str | None = None
    approve: frozenset[str] = frozenset()
    heartbeat_seconds: int | None = None
    price_wei: int = 0
    prices_wei: Mapping[int, int] = field(default_factory=dict[int, int])
    quote_seconds: int = 60


@dataclass(slots=True)
class Joined:
    """An operator, ready to run."""

    operator: Operator
    sender: Sender | None
    desk: QuoteDesk | None
    address: str
    jobs: JobSettings
    store: SharedStore | None

    def info(self) -> dict[str, Any]:
        """What callers may know of it."""
        return {
            "operator": self.address,
            "chain_id": self.jobs.chain_id,
            "manager": self.jobs.manager,
            "jobs": sorted(int(kind) for kind in HANDLERS),
            "job_store": self.store.name if self.store else None,
        }


async def join_operator(
    executor: Executor,
    contracts: Contracts,
    options: OperatorOptions,
    *,
    jobs: JobSettings,
    journal_path: Path,
    address: str,
    wallet: Wallet | None,
    store: SharedStore | None,
    drain_seconds: float,
    clock: Clock,
    stack: AsyncExitStack,
) -> Joined:
    """Open the journal and join all parts; without a wallet the operator is dry."""
    journal = Journal(journal_path, chain_id=jobs.chain_id, manager=jobs.manager)
    stack.callback(journal.close)
    chain = TangleChain(contracts, address, first_block=options.first_block)
    found = await contracts.ask_manager(Manager.OPERATORS, address)
    capacity, is_draining = found[1], found[6]
    # A remote signer shares no secrets, so it opens no boxes.
    opener: Opener | None = wallet if isinstance(wallet, LocalWallet) else None
    carriage = Carriage(jobs.chain_id, jobs.manager, store, opener)
    runner = JobRunner(executor, jobs, carriage=carriage, clock=clock, notary=wallet)
    work = WorkSettings(
        running_max=min(capacity, _RUNNING_MAX),
        confirmations=options.confirmations,
        confirmations_stateful=options.stateful_confirmations,
    )
    worker = Worker(chain, journal, runner, work)
    feed = Feed(
        chain,
        journal,
        first_block=options.first_block,
        on_dropped=worker.drop,
        clock=clock,
        lag_seconds=_LAG_SECONDS,
    )
    heads = NewHeads(options.ws_url, clock=clock) if options.ws_url else None
    daemon = DaemonSettings(jobs.manager, capacity, drain_seconds=drain_seconds)
    sender = desk = None
    beside = Beside(heads=heads)
    if wallet:
        send = SendSettings(
            confirmations=options.result_confirmations, max_fee_cap=options.max_fee_wei
        )
        sender = Sender(chain, journal, wallet, send)
        if is_draining:
            data = Manager.SET_CAPACITY.encode(capacity, False)  # noqa: FBT003  ABI
            await sender.do(jobs.manager, data, await chain.head())
        desk = QuoteDesk(
            contracts,
            wallet,
            QuoteSettings(
                capacity,
                options.price_wei,
                options.prices_wei,
                options.quote_seconds,
                refused=frozenset() if jobs.serves_ports else frozenset({int(JobKind.EXPOSE_PORT)}),
            ),
            journal.quotes,
            chain_id=jobs.chain_id,
            load=journal.open_jobs,
            clock=clock,
        )
        beside = _beside(contracts, sender, options, address, heads=heads, desk=desk, clock=clock)
    operator = Operator(journal, feed, worker, sender, settings=daemon, clock=clock, beside=beside)
    if beside.heartbeat:
        beside.heartbeat.is_well = lambda: operator.problem() is None
    return Joined(operator, sender, desk, address, jobs, store)


def _beside(
    contracts: Contracts,
    sender: Sender,
    options: OperatorOptions,
    address: str,
    *,
    heads: NewHeads | None,
    desk: QuoteDesk,
    clock: Clock,
) -> Beside:
    heartbeat = Heartbeat(
        contracts, sender, address, clock=clock, seconds=options.heartbeat_seconds
    )
    approver = None
    if options.approve:
        approver = Approver(contracts, sender, address, ApprovalPolicy(options.approve))
    return Beside(
        heads=heads,
        heartbeat=heartbeat,
        approver=approver,
        desk=desk,
        balance=lambda: contracts.node.balance(address),
    )
