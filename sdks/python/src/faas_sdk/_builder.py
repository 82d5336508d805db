"""A function described step by step, then used as often as you like."""

from __future__ import annotations

from typing import Any, Dict, Union

from faas_sdk._models import Runtime
from faas_sdk._request import ExecuteOptions


class FunctionBuilder:
    """Collects what an execution needs: `FunctionBuilder("resize").with_memory(512).build()`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._runtime: Union[Runtime, str] = Runtime.AUTO
        self._env_vars: Dict[str, str] = {}
        self._memory_mb = 256
        self._cpu_cores: float = 1
        self._timeout_ms = 30_000

    def runtime(self, runtime: Union[Runtime, str]) -> FunctionBuilder:
        """Choose what runs it."""
        self._runtime = runtime
        return self

    def with_env(self, key: str, value: str) -> FunctionBuilder:
        """Set one variable."""
        self._env_vars[key] = value
        return self

    def with_memory(self, memory_mb: int) -> FunctionBuilder:
        """Limit its memory."""
        self._memory_mb = memory_mb
        return self

    def with_cpu(self, cpu_cores: float) -> FunctionBuilder:
        """Limit its processors."""
        self._cpu_cores = cpu_cores
        return self

    def with_timeout(self, timeout_ms: int) -> FunctionBuilder:
        """Limit its time."""
        self._timeout_ms = timeout_ms
        return self

    def build(self) -> Dict[str, Any]:
        """Return all of it as a dict."""
        return {"name": self._name, **self.options()}

    def options(self) -> ExecuteOptions:
        """Return the same without the name: `client.execute(command, **function.options())`."""
        return {
            "runtime": self._runtime,
            "env_vars": dict(self._env_vars),
            "memory_mb": self._memory_mb,
            "cpu_cores": self._cpu_cores,
            "timeout_ms": self._timeout_ms,
        }
