"""Runs executions: admission, warm pools, the hot path, the ledger, recovery."""

from faas.executor.executor import PlatformExecutor
from faas.executor.idempotency import IdempotencyKey
from faas.executor.output import ExecutionLogs
from faas.executor.recovery import RecoveryReport
from faas.executor.settings import ExecutorSettings, Retention
from faas.executor.stats import ExecutorStats
from faas.executor.warm_pool import PoolStats

__all__ = [
    "ExecutionLogs",
    "ExecutorSettings",
    "ExecutorStats",
    "IdempotencyKey",
    "PlatformExecutor",
    "PoolStats",
    "RecoveryReport",
    "Retention",
]
