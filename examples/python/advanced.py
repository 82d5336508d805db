"""What else a gateway does: `python3 advanced.py`.

Live output, conversation with a running command, cancelling, a pipeline, safe repeats, events,
and the same without async. Each part stands alone.
"""

import asyncio
import json

from faas_sdk import (
    ExitEvent,
    FaaSClient,
    FunctionBuilder,
    OutputEvent,
    SyncFaaSClient,
    UnsupportedError,
)


async def live_output(client: FaaSClient) -> None:
    print("live output")
    async for event in client.stream("for i in 1 2 3; do echo line $i; sleep 0.1; done"):
        if isinstance(event, OutputEvent):
            print(f"   {event.stream}: {event.text.strip()}")
        elif isinstance(event, ExitEvent):
            print(f"   {event.reason} with {event.exit_code}")


async def conversation(client: FaaSClient) -> None:
    print("a conversation with a running command")
    squares = "import sys\nfor line in sys.stdin: print(int(line) ** 2, flush=True)"
    async with client.stream(["python3", "-c", squares], stdin_open=True) as command:
        for number in (7, 12):
            await command.write_stdin(f"{number}\n")
            event = await command.__anext__()
            print(f"   {number} squared is {event.text.strip()}")
        await command.write_stdin("", is_last=True)
        await command.result()


async def cancelling(client: FaaSClient) -> None:
    print("cancelling")
    execution = await client.submit("sleep 60")
    await client.cancel(execution.id)
    result = await client.wait(execution.id)
    print(f"   {result.reason} after {result.duration_ms} ms")


EXTRACT = "import json; print(json.dumps([{'n': n, 'even': n % 2 == 0} for n in range(10)]))"
TRANSFORM = """
import json, sys
rows = json.load(sys.stdin)
print(json.dumps([{**row, "square": row["n"] ** 2} for row in rows if row["even"]]))
"""
AGGREGATE = "import json, sys; print(sum(row['square'] for row in json.load(sys.stdin)))"


async def pipeline(client: FaaSClient) -> None:
    print("extract, transform, aggregate: each in a sandbox of its own")
    rows = (await client.run_python(EXTRACT)).raise_for_exit()
    squares = (await client.run_python(TRANSFORM, stdin=rows.output)).raise_for_exit()
    total = (await client.run_python(AGGREGATE, stdin=squares.output)).raise_for_exit()
    print(
        f"   {len(json.loads(squares.output))} even numbers, squares sum to {total.output.strip()}"
    )


async def one_run_for_one_key(client: FaaSClient) -> None:
    print("one key, one run: safe to repeat from anywhere, also after a restart of the gateway")
    command = "cat /proc/sys/kernel/random/uuid"
    first, second = await asyncio.gather(
        client.execute(command, idempotency_key=f"nightly-{id(client)}"),
        client.execute(command, idempotency_key=f"nightly-{id(client)}"),
    )
    print("   the same answer twice:", first.output == second.output)


async def functions_and_events(client: FaaSClient) -> None:
    print("a described function, and events")
    client.on("execution", lambda facts: print(f"   took {facts['elapsed_ms']:.1f} ms"))
    resize = FunctionBuilder("resize").with_memory(128).with_env("WIDTH", "640").with_timeout(5000)
    result = await client.execute('echo "to $WIDTH pixels"', **resize.options())
    print("  ", result.output.strip())


async def what_this_gateway_has(client: FaaSClient) -> None:
    print("what a gateway does not have, it says")
    base = await client.execute("echo base")
    try:
        fork = await client.fork_execution(base.request_id, "echo fork")
        print("  ", fork.output.strip())
    except UnsupportedError as error:
        print("  ", error.message)


def without_async() -> None:
    print("the same without async")
    with SyncFaaSClient() as client:
        print("  ", client.run_python("print(6 * 7)").output.strip())


async def main() -> None:
    async with FaaSClient() as client:
        for part in (
            live_output,
            conversation,
            cancelling,
            pipeline,
            one_run_for_one_key,
            functions_and_events,
            what_this_gateway_has,
        ):
            await part(client)


if __name__ == "__main__":
    asyncio.run(main())
    without_async()
