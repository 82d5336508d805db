"""The first ten things to do with a gateway: `python3 quickstart.py`.

The gateway is the one at FAAS_GATEWAY_URL, else http://localhost:8080.
"""

import asyncio

from faas_sdk import ExecutionTimeoutError, FaaSClient, Runtime

PYTHON = """
import sys
numbers = [1, 2, 3, 4, 5]
print("Python", sys.version_info.major, "total:", sum(numbers))
"""
JAVASCRIPT = """
const numbers = [1, 2, 3, 4, 5];
console.log("JavaScript total:", numbers.reduce((a, b) => a + b, 0));
"""


async def main() -> None:
    async with FaaSClient() as client:
        print("1. a command")
        result = await client.execute("echo 'Hello, World!'")
        print("  ", result.output.strip(), f"({result.duration_ms} ms, {result.runtime_used})")

        print("2. Python")
        print("  ", (await client.run_python(PYTHON)).output.strip())

        print("3. JavaScript")
        result = await client.run_javascript(JAVASCRIPT)
        print("  ", result.output.strip() if result.ok else "this image has no node")

        print("4. a shell script, its variables expanded where it runs")
        result = await client.run_bash('for i in 1 2 3; do printf "%s " "$i"; done')
        print("  ", result.output.strip())

        print("5. a chosen runtime, with limits")
        result = await client.execute(
            ["uname", "-s"], runtime=Runtime.AUTO, memory_mb=64, cpu_cores=0.5, timeout_ms=5000
        )
        print("  ", result.output.strip(), "isolated by", result.isolation)

        print("6. an environment and input")
        result = await client.execute(
            'echo "$GREETING, $(cat)!"', env_vars={"GREETING": "Hello"}, stdin="stdin"
        )
        print("  ", result.output.strip())

        print("7. files")
        result = await client.execute(
            ["sort", "/tmp/fruit.txt"], files={"/tmp/fruit.txt": "pear\napple\n"}
        )
        print("  ", result.output.split())

        print("8. a command that fails is a result, one that takes too long an exception")
        result = await client.run_python("import sys; sys.exit(3)")
        print("  ", result.exit_code, result.error)
        try:
            await client.execute("echo started; sleep 60", timeout_ms=300)
        except ExecutionTimeoutError as error:
            print("  ", error.result.reason, "after it said", error.result.output.strip())

        print("9. five at once")
        results = await asyncio.gather(*(client.execute(f"echo {i}") for i in range(5)))
        print("  ", [one.output.strip() for one in results])

        print("10. how it went")
        metrics, health = client.get_client_metrics(), await client.health_check()
        print(f"   {metrics.total_requests} executions, {metrics.average_latency_ms:.1f} ms each")
        print("   gateway:", health["status"], await client.get_metrics())


if __name__ == "__main__":
    asyncio.run(main())
