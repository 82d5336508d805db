"""Node goes on from memory: threads, timers, a server and its kept-alive client, and its prompt."""

from pathlib import Path

import pytest
from tests.functional.embedded.test_terminals import Typed

NODE = "/usr/bin/nodejs"
pytestmark = [
    pytest.mark.needs_criu,
    pytest.mark.needs_root,
    pytest.mark.skipif(not Path(NODE).exists(), reason="the host has no node"),
]
SCRIPT = """
const http = require('http'), fs = require('fs');
let n = 0;
const server = http.createServer((q, a) => a.end(String(n++))).listen(7000, '127.0.0.1', () => {
  const ask = () => http.get({port: 7000, host: '127.0.0.1', agent}, r => r.on('data', d => {
    console.log('got ' + d);
    setTimeout(ask, 50);
  }));
  const agent = new http.Agent({keepAlive: true});
  ask();
});
"""


@pytest.mark.parametrize("tty", [False, True])
async def test_a_server_and_its_client_go_on_in_both(keeping, tty):
    first = await Typed.begin(keeping, NODE, "-e", SCRIPT, tty=tty)
    await first.until("got 5")
    before = await first.take()
    again = await first.restore()
    await again.until("got", times=5)
    whole = (before + again.said).replace("\r\n", "\n")
    assert whole.startswith("".join(f"got {n}\n" for n in range(before.count("got") + 4)))
    await first.until("got 15")


async def test_its_prompt_goes_on_with_its_names(keeping):
    first = await Typed.begin(keeping, NODE, "-i", env=(("NODE_REPL_HISTORY", ""),))
    await first.until("> ")
    await first.type("kept = 41\n")
    await first.until("> ", times=2)
    await first.take()
    again = await first.restore()
    await again.type("kept + 1\n")
    await again.until("42")
    await again.type(".exit\n")
    assert (await again.process.wait()).code == 0
