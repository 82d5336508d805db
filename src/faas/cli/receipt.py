"""`faas receipt`: what operators signed for with their results, checked without a chain."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faas.cli import render
from faas.cli.extras import require_tangle
from faas.errors import DataLossError, InvalidArgumentError, InvalidConfigError

if TYPE_CHECKING:
    from faas.chain.evidence import Evidence

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def command() -> None:
    """Check what operators signed for with their results."""


@command.command()
@click.argument("call", type=int)
@click.option("--chain", type=click.Path(path_type=Path), help="chain.json of a development chain.")
@click.option("--rpc-url", envvar="HTTP_RPC_URL", help="The node, by HTTP.")
@click.option("--tangle", envvar="TANGLE_CONTRACT", help="Address of Tangle.")
@click.option("--manager", envvar="MANAGER_CONTRACT", help="Address of the blueprint's manager.")
@click.option("--service", envvar="SERVICE_ID", type=int, help="The service.")
@click.option("--first-block", default=0, help="Block of the manager's deployment.")
def get(
    *,
    call: int,
    chain: Path | None,
    rpc_url: str | None,
    tangle: str | None,
    manager: str | None,
    service: int | None,
    first_block: int,
) -> None:
    """Take the result of a call off the chain, as a file to keep and to check."""
    require_tangle()
    if chain is not None:
        from faas.chain.dev import read_dev_chain

        known = read_dev_chain(chain)
        rpc_url, tangle = rpc_url or known.http_url, tangle or known.tangle
        manager, service = manager or known.manager, known.service if service is None else service
    if rpc_url is None or tangle is None or manager is None or service is None:
        raise InvalidConfigError(
            "give --rpc-url, --tangle, --manager and --service, or --chain", hint="faas chain dev"
        )
    from msgspec import to_builtins

    found = asyncio.run(_fetch(rpc_url, (tangle, manager), (service, call), first_block))
    render.json_data(to_builtins(found))


@command.command()
@click.argument("file", type=_FILE)
@click.option("--operator", help="Whose signature it has to be.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def verify(*, file: Path, operator: str | None, as_json: bool) -> None:
    """Check a result against its receipt, off-line; exit 10 when it does not hold."""
    require_tangle()
    from faas.chain.evidence import mismatches, read_evidence, shown
    from faas.chain.receipts import decode_receipt, problems_of

    evidence = read_evidence(file)
    envelope = evidence.envelope
    problems = problems_of(envelope, inputs=evidence.inputs_bytes) + mismatches(evidence)
    receipt = decode_receipt(envelope.receipt).receipt
    if operator is not None and operator.lower() != receipt.operator.lower():
        problems.append(f"it is of {receipt.operator}, not of {operator}")
    if problems:
        raise DataLossError("the receipt does not hold", details={"problems": problems})
    if as_json:
        render.json_data(shown(receipt))
        return
    render.table(
        [(name, str(value)) for name, value in shown(receipt).items()], headings=("field", "value")
    )
    render.say("the receipt holds")


@command.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
def compare(*, files: tuple[Path, ...]) -> None:
    """Compare what several operators made of the same inputs; exit 10 when they differ."""
    require_tangle()
    from faas.chain.evidence import read_evidence
    from faas.chain.receipts import compare as compared

    if len(files) == 1:
        raise InvalidArgumentError("one result has nothing to be compared with")
    problems = compared([read_evidence(file).envelope for file in files])
    if problems:
        raise DataLossError("the operators do not agree", details={"problems": problems})
    render.say(f"{len(files)} operators agree")


async def _fetch(
    rpc_url: str, contracts: tuple[str, str], call: tuple[int, int], first_block: int
) -> "Evidence":
    from faas.chain.contract import Contracts
    from faas.chain.evidence import fetch_evidence
    from faas.chain.journal import CallKey
    from faas.chain.rpc import Node

    node = Node(rpc_url)
    try:
        return await fetch_evidence(
            Contracts(node, *contracts), CallKey(*call), first_block=first_block
        )
    finally:
        await node.aclose()
