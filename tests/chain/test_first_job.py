"""The first job on a chain, as README and how-to tell it: three commands, and it is true."""

import asyncio
import os
import re
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from tests.chain.operating import PATIENCE_SECONDS, OperatorProcess

from faas.chain.dev import deploy, find_anvil, read_dev_chain, run_anvil
from faas_sdk.tangle import PRESETS, TangleClient

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "faas chain dev",
    (
        "faas operator --chain faas-chain/chain.json --key-file faas-chain/operator-0.key"
        " --data-dir faas-chain/operator-0"
    ),
    "python3 examples/python/tangle.py faas-chain/chain.json",
)


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/operator.md"])
def test_the_pages_have_the_commands(page):
    text = (ROOT / page).read_text()
    for command in COMMANDS:
        assert command in text


async def test_the_preset_of_the_client_is_what_the_command_deploys(forge_build):
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url)
    dev = PRESETS["dev"]
    assert (dev.tangle, dev.manager) == (chain.tangle, chain.manager)
    assert (dev.chain_id, dev.service_id) == (chain.chain_id, chain.service)


@pytest.mark.needs_root
async def test_chain_operator_and_example_run_as_the_pages_say(forge_build, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "sdks/python/src")}

    async def start(command: str, *more: str) -> asyncio.subprocess.Process:
        words = command.split()
        program = [sys.executable, "-m", "faas"] if words[0] == "faas" else [sys.executable]
        words = [str(ROOT / word) if word.startswith("examples/") else word for word in words[1:]]
        with (tmp_path / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(*program, *words, *more),
                cwd=tmp_path,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )

    running = []
    try:
        node = await start(COMMANDS[0], "--port", "0", "--anvil", str(find_anvil()))
        running.append(node)
        assert (await node.stdout.readline()).decode().strip() == "faas-chain/chain.json"
        assert read_dev_chain(tmp_path / "faas-chain" / "chain.json").service == 0
        running.append(await start(COMMANDS[1]))
        example = await start(COMMANDS[2])
        running.append(example)
        async with asyncio.timeout(PATIENCE_SECONDS):
            shown = (await example.stdout.read()).decode()
        assert await example.wait() == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        for process in reversed(running):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.communicate()
    for line in (
        "Hello from the chain! (call 0, block",
        "the one that was chosen: True",
        "['hi', '3']",
        "command_failed of call 2",
        "sum: 45",
        "still here",
    ):
        assert line in shown


BLOCKS = re.findall(r"```py\n(.*?)```", (ROOT / "sdks/python/README.md").read_text(), re.DOTALL)


async def test_the_examples_of_the_sdks_readme_run(forge_build, tmp_path, capsys):
    assert len(BLOCKS) == 2
    async with run_anvil(find_anvil(), port=0) as url:
        chain = await deploy(url)
        operator = OperatorProcess(chain, tmp_path)
        await operator.start()
        try:
            async with TangleClient(chain.ws_url) as client:
                for block in BLOCKS:
                    code = block.replace("ws://localhost:9944", chain.ws_url)
                    names = {}
                    exec("async def example(client):\n" + textwrap.indent(code, "    "), names)
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await names["example"](client)
        finally:
            await operator.kill()
    shown = capsys.readouterr().out
    assert "0 b'Hello from the chain!\\n'" in shown
    assert chain.operators[0].address in shown
    assert "command_failed" in shown
