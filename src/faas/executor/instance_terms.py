"""What an instance may use and how long it is held, changed while it lives."""

from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from faas.clock import Clock
from faas.errors import FaasError, UnsupportedError, WrongStateError
from faas.executor.instance_life import Life
from faas.executor.instance_records import InstanceRecord
from faas.model import Limits
from faas.sandbox.guarded import GuardedSandbox
from faas.sandbox.registry import Registry
from faas.tenancy import Principal

_FIELDS = {"memory": "memory_bytes", "cpu": "cpu_millis", "pids": "pids_max"}
"""By the word with which a runtime's probe says that it holds the limit."""


def _check(
    record: InstanceRecord, limits: Limits, sandbox: GuardedSandbox | None, registry: Registry
) -> None:
    """Refuse what this host would not do.

    Raises:
        UnsupportedError: nothing here changes or holds that limit.
        WrongStateError: more memory is held now than there would be.
    """
    now = record.spec.limits
    if limits.disk_bytes != now.disk_bytes:
        raise UnsupportedError(
            "the disk of an instance cannot be resized",
            hint="make a snapshot of it, and from that an instance with another disk",
        )
    report = registry.reports().get(record.runtime or "")
    held = "" if report is None else report.limits
    for word, field in _FIELDS.items():
        if getattr(limits, field) != getattr(now, field) and word not in held:
            raise UnsupportedError(
                f"nothing on this host holds a {word} limit", hint="run `faas doctor`"
            )
    used = None if sandbox is None else sandbox.memory_bytes()
    if limits.memory_bytes < now.memory_bytes and used is not None and used > limits.memory_bytes:
        raise WrongStateError(
            f"it holds {used >> 20} MiB of memory now, more than the {limits.memory_bytes >> 20}"
            " asked for",
            hint="end what holds them, or ask for more",
        )


class Homes(Protocol):
    """The instances, as far as their terms are concerned."""

    def hold(self, reference: str, principal: Principal) -> AbstractAsyncContextManager[Life]:
        """Have its turn."""
        ...

    def keep(self, life: Life, record: InstanceRecord) -> None:
        """Replace its record."""
        ...


class Terms:
    """Terms of all instances."""

    def __init__(self, homes: Homes, *, registry: Registry, clock: Clock) -> None:
        self._homes = homes
        self._registry = registry
        self._clock = clock

    async def resize(self, reference: str, principal: Principal, limits: Limits) -> InstanceRecord:
        """Give it other limits, while it runs or for its next start.

        Raises:
            UnsupportedError: this host cannot change one of them.
            WrongStateError: it is paused, or holds more memory than that.
        """
        async with self._homes.hold(reference, principal) as life:
            before = life.record
            _check(before, limits, life.sandbox, self._registry)
            self._homes.keep(life, replace(before, spec=replace(before.spec, limits=limits)))
            try:
                if life.sandbox is not None:
                    await life.sandbox.apply_limits(limits)
            except BaseException:
                self._homes.keep(life, before)
                if life.sandbox is not None:
                    with suppress(FaasError):  # what was set before it failed
                        await life.sandbox.apply_limits(before.spec.limits)
                raise
        return life.record

    async def renew(
        self, reference: str, principal: Principal, seconds: float | None
    ) -> InstanceRecord:
        """Hold it for so long from now; None ends the lease, and it stays as if it had none."""
        async with self._homes.hold(reference, principal) as life:
            until = None if seconds is None else self._clock.now() + timedelta(seconds=seconds)
            spec = replace(life.record.spec, lease_seconds=seconds)
            self._homes.keep(life, replace(life.record, spec=spec, lease_until=until))
        return life.record
