"""Jobs on a chain, run by its operators: `python3 tangle.py [faas-chain/chain.json]`.

Before it, each in a terminal of its own:

    faas chain dev
    faas operator --chain faas-chain/chain.json --key-file faas-chain/operator-0.key \\
      --data-dir faas-chain/operator-0

Without an argument the chain is the one at ws://localhost:9944.
"""

import asyncio
import sys

from faas_sdk.tangle import ExecuteFunction, JobFailedError, TangleClient


async def main(chain: "str | None") -> None:
    async with TangleClient(chain=chain) as client:
        print("1. a job, from submission to the accepted result")
        result = await client.execute_function("", ["echo", "Hello from the chain!"])
        print("  ", result.text.strip(), f"(call {result.call_id}, block {result.block})")

        print("2. who ran it")
        operator = await client.get_assigned_operator(result.call_id)
        print("   the one that was chosen:", operator == result.operator)

        print("3. input for the command, and a variable")
        result = await client.execute_function(
            "", "echo $GREETING; wc -w", {"GREETING": "hi"}, b"three little words"
        )
        print("  ", result.text.split())

        print("4. a command that fails")
        try:
            await client.execute_function("", ["sh", "-c", "echo no >&2; exit 3"])
        except JobFailedError as error:
            print("  ", error.failure_code, "of call", error.result.call_id)

        print("5. ten jobs at once")
        handles = await asyncio.gather(
            *(client.submit_job(ExecuteFunction("", ("echo", str(n)))) for n in range(10))
        )
        results = await asyncio.gather(*(handle.result(120) for handle in handles))
        print("   sum:", sum(int(result.text) for result in results))

        print("6. a job that is taken up again, as after a restart")
        handle = await client.submit_job(ExecuteFunction("", ("echo", "still here")))
        async with TangleClient(chain=chain) as other:
            print("  ", (await other.job(handle.call_id).result(120)).text.strip())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
