"""`faas chain`: a development chain in one command, and a look at the surroundings."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from faas.cli import render


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
        render.say(f"\n  faas operator --chain {path} --key-file {directory}/operator-0.key\n")
        await stop.wait()
