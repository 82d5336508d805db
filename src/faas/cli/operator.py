"""`faas operator`, also installed as `faas-blueprint`: jobs of a Tangle service, run here.

Names of variables are those of Tangle's own operators where they have one.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faas.cli import descriptors, render
from faas.cli.extras import require_tangle
from faas.config import Configuration, load
from faas.errors import ConflictError, InvalidConfigError, UnavailableError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from faas.assembly import Platform
    from faas.chain.carriage import SharedStore
    from faas.chain.contract import Contracts
    from faas.chain.job_context import JobSettings
    from faas.chain.joined import Joined, OperatorOptions
    from faas.chain.rpc import Node
    from faas.chain.wallet import Wallet

_STRANGERS_MAX = 128
"""Connections to the door for quotes: one asks and goes, and more than that are turned away."""


@dataclass(frozen=True, slots=True)
class _Options:
    rpc_url: str
    tangle: str
    manager: str
    service: int | None
    key_file: Path | None
    password_file: Path | None
    signer_url: str | None
    address: str | None
    register: int | None
    public_url: str
    metrics_port: int | None
    quote_host: str
    quote_port: int | None
    job_store: str | None
    ports_host: str
    ports_port: int | None
    behaviour: "OperatorOptions"


@click.command()
@click.option("--chain", type=click.Path(path_type=Path), help="chain.json of a development chain.")
@click.option("--rpc-url", envvar="HTTP_RPC_URL", help="The node, by HTTP.")
@click.option("--ws-url", envvar="WS_RPC_URL", help="The same by WebSocket: news of blocks.")
@click.option("--tangle", envvar="TANGLE_CONTRACT", help="Address of Tangle.")
@click.option("--manager", envvar="MANAGER_CONTRACT", help="Address of the blueprint's manager.")
@click.option("--service", envvar="SERVICE_ID", type=int, help="The service, to check membership.")
@click.option(
    "--key-file",
    envvar="KEYSTORE_URI",
    help="Keystore of the operator; without a key it runs dry: jobs run, nothing is handed in.",
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    envvar="KEYSTORE_PASSWORD_FILE",
    help="Password of the keystore.",
)
@click.option("--signer-url", envvar="SIGNER_URL", help="A remote signer that holds the key.")
@click.option("--address", help="The account of the remote signer, or whose jobs to run dry.")
@click.option("--register", type=int, metavar="N", help="Register first, with a capacity of N.")
@click.option(
    "--public-url",
    default="http://127.0.0.1",
    show_default=True,
    help="Where callers find this operator; told with the registration.",
)
@click.option("--approve", multiple=True, metavar="ADDRESS", help="Serve who asks; or `any`.")
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
@click.option("--heartbeat-seconds", type=int, help="Beat that often; else as the manager says.")
@click.option(
    "--job-store",
    envvar="FAAS_JOB_STORE_URL",
    help="Object store of large payloads and outputs: s3://bucket/prefix, file:///folder.",
)
@click.option("--metrics-port", type=int, help="Serve metrics and health on loopback.")
@click.option("--quote-port", type=int, help="Give quotes over HTTP.")
@click.option("--quote-host", default="127.0.0.1", show_default=True, help="Address for that.")
@click.option(
    "--ports-port", type=int, help="Serve exposed ports of instances; their URLs: ports_url."
)
@click.option("--ports-host", default="127.0.0.1", show_default=True, help="Address for that.")
@click.option(
    "--price-wei",
    "prices",
    multiple=True,
    metavar="[JOB=]WEI",
    help="Price of a quoted job; 0 when not given.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="DATA_DIR", help="As serve.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
def command(
    *,
    chain: Path | None,
    data_dir: Path | None,
    others: tuple[str, ...],
    rpc_url: str | None,
    ws_url: str | None,
    tangle: str | None,
    manager: str | None,
    service: int | None,
    key_file: str | None,
    password_file: Path | None,
    signer_url: str | None,
    address: str | None,
    register: int | None,
    public_url: str,
    approve: tuple[str, ...],
    first_block: int,
    confirmations: int,
    stateful_confirmations: int | None,
    result_confirmations: int,
    max_fee_gwei: float,
    heartbeat_seconds: int | None,
    job_store: str | None,
    metrics_port: int | None,
    quote_port: int | None,
    quote_host: str,
    ports_host: str,
    ports_port: int | None,
    prices: tuple[str, ...],
) -> None:
    """Run jobs of a Tangle service and hand in their results."""
    require_tangle()
    import uvloop

    from faas import logs
    from faas.chain.joined import OperatorOptions
    from faas.cli.settings import pairs

    if chain is not None:
        from faas.chain.dev import read_dev_chain

        known = read_dev_chain(chain)
        rpc_url, tangle = rpc_url or known.http_url, tangle or known.tangle
        ws_url = ws_url or known.ws_url
        manager, service = manager or known.manager, known.service if service is None else service
    if rpc_url is None or tangle is None or manager is None:
        raise InvalidConfigError(
            "an operator needs --rpc-url, --tangle and --manager, or --chain",
            hint="faas chain dev",
        )
    price, by_job = _prices(prices)
    options = _Options(
        rpc_url=rpc_url,
        tangle=_address(tangle, "--tangle"),
        manager=_address(manager, "--manager"),
        service=service,
        key_file=Path(key_file.removeprefix("file://")) if key_file else None,
        password_file=password_file,
        signer_url=signer_url,
        address=_address(address, "--address") if address else None,
        register=register,
        public_url=public_url,
        metrics_port=metrics_port,
        quote_host=quote_host,
        quote_port=quote_port,
        job_store=job_store,
        ports_host=ports_host,
        ports_port=ports_port,
        behaviour=OperatorOptions(
            first_block=first_block,
            confirmations=confirmations,
            stateful_confirmations=stateful_confirmations or confirmations,
            result_confirmations=result_confirmations,
            max_fee_wei=int(max_fee_gwei * 10**9),
            ws_url=ws_url,
            approve=frozenset(
                each if each == "any" else _address(each, "--approve") for each in approve
            ),
            heartbeat_seconds=heartbeat_seconds,
            price_wei=price,
            prices_wei=by_job,
        ),
    )
    configuration = load({"data_dir": data_dir} | pairs(others))
    settings = configuration.settings
    logs.configure(level=settings.log_level, style=settings.log_format)
    descriptors.raise_limit()
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
        wallet = await _wallet(node, options, stack)
        if options.key_file:
            stack.enter_context(_held(options.key_file))
        # The chain first: it is the cheapest thing to be wrong.
        await _prepare(contracts, options, wallet)
        settings = configuration.settings
        ports = _bound(options.ports_host, options.ports_port)
        if ports is not None:
            stack.callback(ports.close)
            settings = replace(settings, port=ports.getsockname()[1])
        platform = await stack.enter_async_context(open_platform(settings))
        if not platform.registry.available():
            raise UnavailableError("no runtime works on this machine", hint="faas doctor")
        joined = await _join(platform, contracts, options, wallet, stack)
        await _open_doors(joined, options, stack)
        if ports is not None:
            _serve_on(_ports_app(platform), ports, stack)
        mode = f"for {joined.address}" if wallet else "dry: nothing is handed in"
        render.say(f"operator {mode}, on {options.rpc_url}, manager {options.manager}")
        await joined.operator.run(stop)


async def _wallet(
    node: "Node", options: _Options, stack: contextlib.AsyncExitStack
) -> "Wallet | None":
    from faas.chain.remote_wallet import RemoteWallet
    from faas.chain.wallet import open_wallet

    if options.signer_url is not None:
        if options.key_file is not None or options.address is None:
            raise InvalidConfigError("a remote signer goes with --address and without --key-file")
        wallet = RemoteWallet(options.signer_url, options.address, chain_id=await node.chain_id())
        stack.push_async_callback(wallet.aclose)
        stack.enter_context(_claimed(wallet.address))
        return wallet
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


@contextlib.contextmanager
def _claimed(address: str) -> Generator[None]:
    """The same for a key that is no file here: a name that one process of this machine can have."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0faas-operator-{address}")
        except OSError:
            raise ConflictError(f"another operator uses the key of {address}") from None
        yield


async def _prepare(contracts: "Contracts", options: _Options, wallet: "Wallet | None") -> None:
    from faas.chain.registration import register
    from faas.chain.surroundings import Expected, look, refuse_bad
    from faas.clock import SystemClock

    operator = wallet.address if wallet else options.address
    if operator is None:
        raise InvalidConfigError("without a key an operator needs --address, and runs dry")
    # Before anything is sent: is this the protocol we know?
    refuse_bad(await look(contracts, Expected(None, None, None), SystemClock()))
    if options.register is not None and wallet is not None:
        await register(contracts, wallet, capacity=options.register, rpc_address=options.public_url)
    service = options.service if wallet and not options.behaviour.approve else None
    refuse_bad(await look(contracts, Expected(None, operator, service), SystemClock()))


async def _join(
    platform: "Platform",
    contracts: "Contracts",
    options: _Options,
    wallet: "Wallet | None",
    stack: contextlib.AsyncExitStack,
) -> "Joined":
    from faas.chain.joined import join_operator
    from faas.clock import SystemClock

    return await join_operator(
        platform.executor,
        contracts,
        options.behaviour,
        jobs=_job_settings(platform, options, await contracts.node.chain_id()),
        journal_path=platform.data_dir.path / "operator.sqlite",
        address=wallet.address if wallet else options.address or "",
        wallet=wallet,
        store=_shared_store(options.job_store),
        drain_seconds=platform.settings.drain_seconds,
        clock=SystemClock(),
        stack=stack,
    )


def _job_settings(platform: "Platform", options: _Options, chain_id: int) -> "JobSettings":
    from faas.assembly import default_limits, limit_ceilings
    from faas.chain.job_context import JobSettings

    settings = platform.settings
    return JobSettings(
        chain_id=chain_id,
        manager=options.manager,
        default_image=settings.default_image,
        limits=default_limits(settings),
        ceilings=limit_ceilings(settings),
        timeout_ms_max=settings.timeout_ms_max,
        tenant_running_max=settings.tenant_running_max,
        serves_ports=options.ports_port is not None,
    )


def _shared_store(url: str | None) -> "SharedStore | None":
    from faas.blobs import open_shared
    from faas.chain.carriage import SharedStore
    from faas.config import aws_variables

    return SharedStore(*open_shared(url, aws=aws_variables())) if url else None


async def _open_doors(
    joined: "Joined", options: _Options, stack: contextlib.AsyncExitStack
) -> None:
    from faas.chain.door import keeper_app, quote_app

    operator = joined.operator
    if listener := _bound("127.0.0.1", options.metrics_port):
        _serve_on(keeper_app(operator.metrics, operator.problem), listener, stack)
    if listener := _bound(options.quote_host, options.quote_port):
        if joined.desk is None:
            raise InvalidConfigError("without a key no quotes can be signed")
        app = quote_app(joined.desk, joined.info)
        _serve_on(app, listener, stack, connections_max=_STRANGERS_MAX)


def _ports_app(platform: "Platform") -> "ASGIApp":
    """The gateway's door for ports, and nothing else of the gateway."""
    from starlette.responses import PlainTextResponse

    from faas.cli.serve import gateway_app
    from faas.gateway.port_door import PortDoor

    nothing = PlainTextResponse("nothing is exposed at this address\n", status_code=404)
    return PortDoor(nothing, door=gateway_app(platform).state.door)


def _bound(host: str, port: int | None) -> socket.socket | None:
    if port is None:
        return None
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as failure:
        raise UnavailableError(f"cannot listen on {host}:{port}: {failure.strerror}") from failure


def _serve_on(
    app: "ASGIApp",
    listener: socket.socket,
    stack: contextlib.AsyncExitStack,
    *,
    connections_max: int | None = None,
) -> None:
    """Serve until the stack unwinds; uvicorn's own signals would take SIGTERM from us."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    server = Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=connections_max,
            timeout_graceful_shutdown=2,
        )
    )
    task = asyncio.get_running_loop().create_task(server.serve([listener]))
    shown = listener.getsockname()
    render.say(f"listening on http://{shown[0]}:{shown[1]}")

    async def close() -> None:
        server.should_exit = True
        await task
        listener.close()

    stack.push_async_callback(close)


def _prices(given: tuple[str, ...]) -> tuple[int, dict[int, int]]:
    from faas.chain.quotes import QuoteSettings, check_prices

    price, by_job = 0, dict[int, int]()
    for each in given:
        job, sign, wei = each.rpartition("=")
        if not wei.isdecimal() or (sign and not job.isdecimal()):
            raise InvalidConfigError(f"--price-wei {each} is not [JOB=]WEI")
        if sign:
            by_job[int(job)] = int(wei)
        else:
            price = int(wei)
    check_prices(QuoteSettings(1, price, by_job))
    return price, by_job


def _address(text: str, what: str) -> str:
    from eth_utils.address import is_address, to_checksum_address

    if not is_address(text):
        raise InvalidConfigError(f"{what} {text[:80]!r} is no address")
    return to_checksum_address(text)


def main() -> None:
    """Run as `faas-blueprint`."""
    import sys

    from faas.cli import main as faas

    sys.argv[1:1] = ["operator"]
    faas.main()
