"""The executor in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from faas.executor.parts import Fixtures, Parts
from faas.executor.pool_shelf import Template
from faas.executor.run import template_of
from faas.executor.warm_pool import PoolStats


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """The executor at this moment, and what it did since it started."""

    queued: int
    running: int
    disposing: int
    pools: Mapping[str, PoolStats]
    templates: Mapping[Template, PoolStats] = field(default_factory=dict[Template, PoolStats])
    finished: int = 0
    failed: int = 0
    rejected: int = 0
    from_pool: int = 0
    on_demand: int = 0


def count(fixtures: Fixtures, parts: Parts) -> ExecutorStats:
    """Count."""
    busy: dict[str, int] = {}
    in_use: dict[Template, int] = {}
    for active in parts.intake.actives.values():
        if active.sandbox is not None:
            busy[active.sandbox.runtime] = busy.get(active.sandbox.runtime, 0) + 1
        if active.sandbox is not None and active.choice is not None:
            template = template_of(active.choice, active.root, active.entry.spec)
            in_use[template] = in_use.get(template, 0) + 1
    ready = fixtures.pool.stats()
    driver = parts.driver
    return ExecutorStats(
        queued=fixtures.admission.queued,
        running=fixtures.admission.running,
        disposing=fixtures.disposal.backlog,
        pools={
            name: replace(ready.get(name, PoolStats()), busy=busy.get(name, 0))
            for name in fixtures.registry.names
        },
        templates={
            template: replace(pool, busy=in_use.get(template, 0))
            for template, pool in fixtures.pool.templates().items()
        },
        finished=driver.finished,
        failed=driver.failed,
        rejected=parts.intake.rejected,
        from_pool=driver.from_pool,
        on_demand=driver.on_demand,
    )
