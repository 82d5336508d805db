"""The operator's metrics: every name, its kind and what it means, and the Prometheus text."""

from collections.abc import Mapping
from typing import Final

PREFIX: Final = "faas_operator_"
COUNTERS: Final = {
    "worker_ran": "Jobs that were brought to a result.",
    "worker_retried": "Attempts that failed for a reason that passes.",
    "worker_expired": "Jobs that were over or passed on before they ran.",
    "sender_sent": "Results that were put into a transaction.",
    "sender_confirmed": "Results that the manager accepted, deep enough.",
    "sender_rejected": "Results that were refused for good.",
    "sender_expired": "Results of calls that somebody else settled or got.",
    "sender_bumped": "Transactions that were sent again at a higher fee.",
    "sender_resent": "Transactions that were sent again after a restart.",
    "sender_gaps_filled": "Nonces that a reorg left out and an empty transaction filled.",
    "sender_cancelled": "Transactions outbid because a reorg took their calls.",
    "sender_hook_failures": "Results that the manager's hook could not take.",
    "reorgs": "Times the chain was reorganised below what was read.",
    "lags": "Times the node was behind what was read.",
    "errors": "Rounds that failed because the chain or the signer did not answer.",
    "socket_drops": "Times the WebSocket to the node was lost.",
    "heartbeats_sent": "Heartbeats sent.",
    "heartbeats_failed": "Heartbeats that could not be sent.",
    "quotes_given": "Quotes signed.",
    "quotes_refused": "Quotes refused.",
    "services_approved": "Service requests approved.",
}
GAUGES: Final = {
    "running": "Jobs that run now.",
    "capacity": "Jobs this operator said it runs at once.",
    "quotes_reserved": "Slots kept for open quotes.",
    "head_block": "Block up to which the journal has everything.",
    "head_age_seconds": "Seconds since the journal last caught up with the node.",
    "socket_connected": "1 while the WebSocket to the node is open.",
    "draining": "1 from SIGTERM on.",
    "dry": "1 when there is no key and nothing is handed in.",
    "balance_ether": "Coins of the account, as of the last look.",
    "oldest_open_seconds": "Seconds to the nearest deadline of an open job; negative when past.",
    "chores": "Transactions without results that are not mined yet.",
}
JOBS: Final = "jobs"
JOBS_MEANING: Final = "Jobs in the journal, by state."


def text(values: Mapping[str, float], jobs: Mapping[str, int]) -> str:
    """Write what is known; a value that is not is left out."""
    lines: list[str] = []
    for name, meaning in COUNTERS.items():
        if name in values:
            lines += _metric(f"{name}_total", "counter", meaning, values[name])
    for name, meaning in GAUGES.items():
        if name in values:
            lines += _metric(name, "gauge", meaning, values[name])
    lines += [f"# HELP {PREFIX}{JOBS} {JOBS_MEANING}", f"# TYPE {PREFIX}{JOBS} gauge"]
    lines += [f'{PREFIX}{JOBS}{{state="{state}"}} {count}' for state, count in jobs.items()]
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, meaning: str, value: float) -> list[str]:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return [
        f"# HELP {PREFIX}{name} {meaning}",
        f"# TYPE {PREFIX}{name} {kind}",
        f"{PREFIX}{name} {shown}",
    ]
