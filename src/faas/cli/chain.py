"""`faas chain`: a development chain in one command, and a look at the surroundings."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faas.cli import render
from faas.cli.extras import require_tangle
from faas.errors import InvalidConfigError

if TYPE_CHECKING:
    from faas.chain.surroundings import Expected, Finding


@click.group()
def command() -> None:
    """Run a development chain; check a real one."""


@command.command()
@click.option(
    "--port", default=9944, show_default=True, help="Port of the node; 0 takes a free one."
)
@click.option("--operators", default=1, show_default=True, type=click.IntRange(1, 16))
@click.option("--capacity", default=64, show_default=True, help="Jobs each operator runs at once.")
@click.option(
    "--block-seconds", default=0.0, help="Make a block that often; 0 makes one per transaction."
)
@click.option(
    "--dir",
    "directory",
    default="faas-chain",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where chain.json and the key files are written.",
)
@click.option("--anvil", help="The node's program; else the one found.")
def dev(
    *,
    port: int,
    operators: int,
    capacity: int,
    block_seconds: float,
    directory: Path,
    anvil: str | None,
) -> None:
    """Start a node with everything deployed, a service and funded accounts."""
    require_tangle()
    from faas.chain.dev import find_anvil, run_anvil

    node = run_anvil(find_anvil(anvil), port=port, block_seconds=block_seconds)
    asyncio.run(_dev(node, operators, capacity, directory))


async def _dev(
    node: contextlib.AbstractAsyncContextManager[str],
    operators: int,
    capacity: int,
    directory: Path,
) -> None:
    from faas.chain.dev import deploy

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with node as url:
        chain = await deploy(url, operators=operators, capacity=capacity)
        path = chain.write(directory)
        render.data(str(path))
        render.say(f"chain {chain.chain_id} on {chain.http_url} and {chain.ws_url}")
        render.say(f"  tangle   {chain.tangle}\n  manager  {chain.manager}")
        render.say(f"  service  {chain.service} of {operators} operators")
        command = f"faas operator --chain {path} --key-file {directory}/operator-0.key"
        render.say(f"\n  {command} --data-dir {directory}/operator-0")
        render.say(f"  python3 examples/python/tangle.py {path}\n")
        await stop.wait()


@command.command()
@click.option("--chain", type=click.Path(path_type=Path), help="chain.json of a development chain.")
@click.option("--rpc-url", envvar="HTTP_RPC_URL", help="The node, by HTTP.")
@click.option("--tangle", envvar="TANGLE_CONTRACT", help="Address of Tangle.")
@click.option("--manager", envvar="MANAGER_CONTRACT", help="Address of the blueprint's manager.")
@click.option("--service", envvar="SERVICE_ID", type=int, help="The service.")
@click.option("--operator", help="Address of the operator.")
@click.option("--chain-id", type=int, help="Which chain it has to be.")
def check(
    *,
    chain: Path | None,
    rpc_url: str | None,
    tangle: str | None,
    manager: str | None,
    service: int | None,
    operator: str | None,
    chain_id: int | None,
) -> None:
    """Look at node, contracts, clock, registration and balance; exit 2 when one is wrong."""
    require_tangle()
    from faas.chain.surroundings import Expected, refuse_bad

    if chain is not None:
        from faas.chain.dev import read_dev_chain

        known = read_dev_chain(chain)
        rpc_url, tangle = rpc_url or known.http_url, tangle or known.tangle
        manager = manager or known.manager
        service = known.service if service is None else service
        operator = operator or known.operators[0].address
    if rpc_url is None or tangle is None or manager is None:
        raise InvalidConfigError(
            "give --rpc-url, --tangle and --manager, or --chain", hint="faas chain dev"
        )
    expected = Expected(chain_id, operator, service)
    findings = asyncio.run(_look(rpc_url, tangle, manager, expected))
    rows = [("ok" if each.is_ok else "BAD", each.name, each.detail) for each in findings]
    render.table(rows, headings=("", "what", "found"))
    refuse_bad(findings)


async def _look(rpc_url: str, tangle: str, manager: str, expected: "Expected") -> "list[Finding]":
    from faas.chain.contract import Contracts
    from faas.chain.rpc import Node
    from faas.chain.surroundings import look
    from faas.clock import SystemClock

    node = Node(rpc_url)
    try:
        return await look(Contracts(node, tangle, manager), expected, SystemClock())
    finally:
        await node.aclose()
