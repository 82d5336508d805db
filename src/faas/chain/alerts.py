"""What wakes somebody, when, and what they do: the rules for Prometheus and the runbook's table."""

from dataclasses import dataclass
from typing import Final

from faas.chain.gauges import COUNTERS, GAUGES, JOBS, JOBS_MEANING, PREFIX


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule."""

    name: str
    expression: str
    """Of metrics without their prefix, which `{}` stands for."""
    minutes: int
    severity: str
    means: str
    do: str

    @property
    def query(self) -> str:
        """The expression as Prometheus takes it."""
        return self.expression.replace("{}", PREFIX)


ALERTS: Final = (
    Alert(
        *("OperatorGone", 'up{job="faas-operator"} == 0', 2, "page"),
        "The process does not answer.",
        "Start it again; the journal knows what to do. `journalctl -u faas-operator` says why.",
    ),
    Alert(
        *("OperatorBlind", "{}head_age_seconds > 60", 1, "page"),
        "The node does not answer, or lags. No job is lost until its deadline.",
        "`faas chain check`; then another node by `--rpc-url` and `--ws-url`.",
    ),
    Alert(
        *("OperatorDeadlineNear", "{}oldest_open_seconds < 60", 1, "page"),
        "A job will be late, and then anybody may take it.",
        "Is `running` at `capacity`, or `jobs{state=sent}` stuck? Then the two alerts below.",
    ),
    Alert(
        "OperatorResultStuck",
        '{}jobs{state="sent"} > 0 and changes({}sender_confirmed_total[15m]) == 0',
        *(15, "page"),
        "Results are sent and none is mined.",
        "The log says `stuck at the fee cap`: raise `--max-fee-gwei`. Else the node drops"
        " transactions: use another.",
    ),
    Alert(
        *("OperatorResultRejected", "increase({}sender_rejected_total[15m]) > 0", 0, "ticket"),
        "The manager or Tangle refused a result for good; the log has the reason.",
        "`other inputs` follows a reorg: do nothing. `not assignee`: the deadline was missed.",
    ),
    Alert(
        *("OperatorHookFailed", "increase({}sender_hook_failures_total[15m]) > 0", 0, "page"),
        "The manager's hook could not take a result, so callers wait for nothing.",
        "Tell the owner of the blueprint: the hook's gas cap or the manager is wrong.",
    ),
    Alert(
        *("OperatorPoor", "{}balance_ether < 0.05", 5, "ticket"),
        "Coins for some hundred results are left.",
        "Send coins to the operator's account.",
    ),
    Alert(
        *("OperatorSilent", "increase({}heartbeats_failed_total[15m]) > 2", 0, "ticket"),
        "Heartbeats do not get through; other operators are chosen before this one.",
        "The log says why; mostly the same as OperatorBlind or OperatorPoor.",
    ),
    Alert(
        *("OperatorReorgs", "increase({}reorgs_total[1h]) > 5", 0, "ticket"),
        "The chain is reorganised often; work is done twice.",
        "Raise `--confirmations`, `--stateful-confirmations` and `--result-confirmations`.",
    ),
    Alert(
        *("OperatorRetries", "rate({}worker_retried_total[10m]) > 0.2", 10, "ticket"),
        "Jobs fail for a reason that should pass and does not.",
        "`faas doctor`: a runtime, the disk or the object store.",
    ),
)


def rules() -> str:
    """Write the rules as Prometheus reads them."""
    lines = ["# Made by `make docs` from src/faas/chain/alerts.py.", "groups:"]
    lines += ["  - name: faas-operator", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {_quoted(alert.query)}",
            f"        for: {alert.minutes}m",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {_quoted(alert.means)}",
            f"          runbook: {_quoted(alert.do)}",
        ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Write the page of the operator's metrics and alerts."""
    lines = [
        "# Metrics and alerts of an operator",
        "",
        "`faas operator --metrics-port PORT` answers `GET /metrics` and `GET /health` on loopback.",
        "Counters start at 0 with the process; what must outlive it is in the journal.",
        "",
        "This page and `packaging/operator-alerts.yml` are made from the code by `make docs`.",
        "",
        "| name | kind | what it tells |",
        "|---|---|---|",
    ]
    lines += [f"| `{PREFIX}{n}_total` | counter | {told} |" for n, told in COUNTERS.items()]
    lines += [f"| `{PREFIX}{n}` | gauge | {told} |" for n, told in GAUGES.items()]
    lines.append(f"| `{PREFIX}{JOBS}` | gauge, by `state` | {JOBS_MEANING} |")
    lines += ["", "## Alerts, and what to do", "", "| alert | means | do |", "|---|---|---|"]
    lines += [f"| `{alert.name}` | {alert.means} | {alert.do} |" for alert in ALERTS]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
