"""State as a value: cached, checkpointed, branched, merged: `python3 state.py`.

The gateway is the one at FAAS_GATEWAY_URL, else http://localhost:8080.
"""

import asyncio

from faas_sdk import FaaSClient

COUNT = "n=$(cat /tmp/n 2>/dev/null || echo 0); echo $((n + 1)) | tee /tmp/n"


async def main() -> None:
    async with FaaSClient() as client:
        print("1. cached: the second time is an answer, not a run")
        for _ in range(2):
            result = await client.execute("echo $((6 * 7))", mode="cached")
            print("  ", result.stdout.strip(), "from the cache:", result.cache_hit)

        print("2. checkpointed: run on from where it was")
        first = await client.execute(COUNT, mode="checkpointed")
        second = await client.execute(COUNT, mode="checkpointed", snapshot_id=first.request_id)
        print("   counted", first.stdout.strip(), "then", second.stdout.strip())

        print("3. branched: children of one parent, side by side")
        base = await client.execute("echo shared > /tmp/base.txt")
        children = await client.fork(
            base.request_id, [f"cat /tmp/base.txt; echo {n} > /tmp/{n}.txt" for n in "abc"]
        )
        print("  ", [child.stdout.strip() for child in children])

        print("4. merged: one snapshot of what they all did")
        merged = await client.merge_branches([child.request_id for child in children])
        listed = await client.execute("ls /tmp", snapshot_id=merged["snapshot_id"])
        print("  ", listed.stdout.split(), "conflicts:", len(merged["conflicts"]))

        print("5. a race: the first child whose files pass the check")
        race = await client.race(
            base.request_id,
            ["echo wrong > /tmp/answer", "echo right > /tmp/answer"],
            check="grep -q right /tmp/answer",
        )
        print("   the second won:", race["winner"] == race["children"][1]["request_id"])


if __name__ == "__main__":
    asyncio.run(main())
