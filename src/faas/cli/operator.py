"""`faas operator`, also installed as `faas-blueprint`: jobs of a Tangle service, run here.

Names of variables are those of Tangle's own operators where they have one.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faas.cli import render
from faas.config import Configuration, load
from faas.errors import ConflictError, InvalidConfigError

if TYPE_CHECKING:
    from faas.assembly import Platform
    from faas.chain.carriage import SharedStore
    from faas.chain.contract import Contracts
    from faas.chain.daemon import Operator
    from faas.chain.rpc import Node
    from faas.chain.sender import Sender
    from faas.chain.wallet import LocalWallet

_METRICS_LINE_MAX = 8192


@dataclass(frozen=True, slots=True)
class _Options:
    rpc_url: str
    tangle: str
    manager: str
    service: int | None
    key_file: Path | None
    password_file: Path | None
    address: str | None
    register: int | None
    first_block: int
    confirmations: int
    result_confirmations: int
    max_fee_gwei: float
    metrics_port: int | None
    job_store: str | None
    stateful_confirmations: int


@click.command()
@click.option("--chain", type=click.Path(path_type=Path), help="chain.json of a development chain.")
@click.option("--rpc-url", envvar="HTTP_RPC_URL", help="The node, by HTTP.")
@click.option("--tangle", envvar="TANGLE_CONTRACT", help="Address of Tangle.")
@click.option("--manager", envvar="MANAGER_CONTRACT", help="Address of the blueprint's manager.")
@click.option("--service", envvar="SERVICE_ID", type=int, help="The service, to check membership.")
@click.option(
    "--key-file",
    envvar="KEYSTORE_URI",
    help="Keystore of the operator; without one it runs dry: jobs run, nothing is handed in.",
)
@click.option("--password-file", type=click.Path(path_type=Path), help="Password of the keystore.")
@click.option("--address", help="Whose jobs to run dry.")
@click.option("--register", type=int, metavar="N", help="Register first, with a capacity of N.")
@click.option("--first-block", default=0, help="Block of the manager's deployment.")
@click.option("--confirmations", default=1, show_default=True, help="Blocks before a job runs.")
@click.option(
    "--stateful-confirmations",
    type=int,
    help="The same for jobs that keep state; without it as --confirmations.",
)
@click.option(
    "--result-confirmations", default=1, show_default=True, help="Blocks before a result is final."
)
@click.option("--max-fee-gwei", default=200.0, show_default=True, help="Never offer more a gas.")
@click.option(
    "--job-store",
    envvar="FAAS_JOB_STORE_URL",
    help="Object store of large payloads and outputs: s3://bucket/prefix, file:///folder.",
)
@click.option("--metrics-port", type=int, help="Serve Prometheus metrics on loopback.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="DATA_DIR", help="As serve.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
def command(
    *,
    chain: Path | None,
    data_dir: Path | None,
    others: tuple[str, ...],
    rpc_url: str | None,
    tangle: str | None,
    manager: str | None,
    service: int | None,
    key_file: str | None,
    password_file: Path | None,
    address: str | None,
    register: int | None,
    first_block: int,
    confirmations: int,
    result_confirmations: int,
    max_fee_gwei: float,
    metrics_port: int | None,
    job_store: str | None,
    stateful_confirmations: int | None,
) -> None:
    """Run jobs of a Tangle service and hand in their results."""
    import uvloop

    from faas import logs
    from faas.cli.serve import pairs

    if chain is not None:
        from faas.chain.dev import read_dev_chain

        known = read_dev_chain(chain)
        rpc_url, tangle = rpc_url or known.http_url, tangle or known.tangle
        manager, service = manager or known.manager, known.service if service is None else service
    if rpc_url is None or tangle is None or manager is None:
        raise InvalidConfigError(
            "an operator needs --rpc-url, --tangle and --manager, or --chain",
            hint="faas chain dev",
        )
    options = _Options(
        rpc_url=rpc_url,
        tangle=tangle,
        manager=manager,
        service=service,
        key_file=Path(key_file.removeprefix("file://")) if key_file else None,
        password_file=password_file,
        address=address,
        register=register,
        first_block=first_block,
        confirmations=confirmations,
        result_confirmations=result_confirmations,
        max_fee_gwei=max_fee_gwei,
        metrics_port=metrics_port,
        job_store=job_store,
        stateful_confirmations=stateful_confirmations or confirmations,
    )
    configuration = load({"data_dir": data_dir} | pairs(others))
    settings = configuration.settings
    logs.configure(level=settings.log_level, style=settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(configuration, options))


async def _serve(configuration: Configuration, options: _Options) -> None:
    from faas.assembly import open_platform
    from faas.chain.contract import Contracts
    from faas.chain.rpc import Node

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        node = Node(options.rpc_url)
        stack.push_async_callback(node.aclose)
        contracts = Contracts(node, options.tangle, options.manager)
        wallet = await _wallet(node, options)
        if options.key_file:
            stack.enter_context(_held(options.key_file))
        # The chain first: it is the cheapest thing to be wrong.
        await _prepare(contracts, options, wallet)
        platform = await stack.enter_async_context(open_platform(configuration.settings))
        operator, sender = await _assemble(platform, contracts, options, wallet, stack)
        if options.metrics_port is not None:
            await stack.enter_async_context(_metrics(operator, options.metrics_port))
        mode = f"for {wallet.address}" if wallet and sender else "dry: nothing is handed in"
        render.say(f"operator {mode}, on {options.rpc_url}, manager {options.manager}")
        await operator.run(stop)


async def _wallet(node: "Node", options: _Options) -> "LocalWallet | None":
    from faas.chain.wallet import open_wallet

    if options.key_file is None:
        return None
    password = None
    if options.password_file:
        password = options.password_file.read_text().rstrip("\n")
    return open_wallet(options.key_file, password, chain_id=await node.chain_id())


@contextlib.contextmanager
def _held(key_file: Path) -> Generator[None]:
    """Keep a second operator with the same key off: two would use the same nonces."""
    descriptor = os.open(key_file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConflictError(f"another operator uses the key {key_file}") from None
    finally:
        os.close(descriptor)


async def _prepare(contracts: "Contracts", options: _Options, wallet: "LocalWallet | None") -> None:
    from faas.chain.registration import register
    from faas.chain.surroundings import Expected, look, refuse_bad
    from faas.clock import SystemClock

    if options.register is not None and wallet is not None:
        await register(contracts, wallet, capacity=options.register)
    operator = wallet.address if wallet else options.address
    if operator is None:
        raise InvalidConfigError("without a key an operator needs --address, and runs dry")
    service = options.service if wallet else None
    refuse_bad(await look(contracts, Expected(None, operator, service), SystemClock()))


async def _assemble(
    platform: "Platform",
    contracts: "Contracts",
    options: _Options,
    wallet: "LocalWallet | None",
    stack: contextlib.AsyncExitStack,
) -> "tuple[Operator, Sender | None]":
    from faas.assembly import default_limits, limit_ceilings
    from faas.chain.carriage import Carriage
    from faas.chain.contract import Manager
    from faas.chain.daemon import DaemonSettings, Operator
    from faas.chain.feed import Feed
    from faas.chain.handlers import JobRunner
    from faas.chain.job_context import JobSettings
    from faas.chain.journal import Journal
    from faas.chain.sender import Sender, SendSettings
    from faas.chain.tangle_chain import TangleChain
    from faas.chain.worker import Worker, WorkSettings
    from faas.clock import SystemClock

    settings = platform.settings
    chain_id = await contracts.node.chain_id()
    address = wallet.address if wallet else options.address or ""
    path = platform.data_dir.path / "operator.sqlite"
    journal = Journal(path, chain_id=chain_id, manager=options.manager)
    stack.callback(journal.close)
    chain = TangleChain(contracts, address, first_block=options.first_block)
    found = await contracts.ask_manager(Manager.OPERATORS, address)
    capacity, is_draining = found[1], found[6]
    clock = SystemClock()
    jobs = JobSettings(
        chain_id=chain_id,
        manager=options.manager,
        default_image=settings.default_image,
        limits=default_limits(settings),
        ceilings=limit_ceilings(settings),
        timeout_ms_max=settings.timeout_ms_max,
        tenant_running_max=settings.tenant_running_max,
    )
    store = _shared_store(options.job_store)
    carriage = Carriage(chain_id, options.manager, store, wallet)
    runner = JobRunner(platform.executor, jobs, carriage=carriage, clock=clock, notary=wallet)
    work = WorkSettings(
        running_max=min(capacity, 256),
        confirmations=options.confirmations,
        confirmations_stateful=options.stateful_confirmations,
    )
    worker = Worker(chain, journal, runner, work)
    feed = Feed(chain, journal, first_block=options.first_block, on_dropped=worker.drop)
    sender = None
    if wallet:
        send = SendSettings(
            confirmations=options.result_confirmations,
            max_fee_cap=int(options.max_fee_gwei * 10**9),
        )
        sender = Sender(chain, journal, wallet, send)
        if is_draining:
            data = Manager.SET_CAPACITY.encode(capacity, False)  # noqa: FBT003  ABI
            await sender.do(options.manager, data, await chain.head())
    daemon = DaemonSettings(options.manager, capacity, drain_seconds=settings.drain_seconds)
    operator = Operator(journal, feed, worker, sender, settings=daemon, clock=clock)
    return operator, sender


def _shared_store(url: str | None) -> "SharedStore | None":
    from faas.blobs import open_shared
    from faas.chain.carriage import SharedStore
    from faas.config import aws_variables

    return SharedStore(*open_shared(url, aws=aws_variables())) if url else None


@contextlib.asynccontextmanager
async def _metrics(operator: "Operator", port: int) -> AsyncGenerator[None]:
    """Answer every request on loopback with the metrics."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            await reader.readuntil(b"\r\n\r\n")
            body = operator.metrics().encode()
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=_METRICS_LINE_MAX)
    async with server:
        yield


def main() -> None:
    """Run as `faas-blueprint`."""
    import sys

    from faas.cli import main as faas

    sys.argv[1:1] = ["operator"]
    faas.main()
