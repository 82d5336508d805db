"""What is done now and then while an executor serves: pools filled, leases ended, old records and
snapshots taken away, runtimes that did not work tried again."""

import asyncio
import logging

from faas.errors import FaasError
from faas.executor.origins import Origins
from faas.executor.parts import Fixtures, Parts
from faas.executor.run import template_of
from faas.executor.spool import output_files, remove
from faas.model import ExecutionSpec

CHECKPOINT_BYTES = 4 << 20
"""A log this long is moved into the file: rarely enough to be cheap, often enough to stay small."""

MAINTENANCE_SECONDS = 1.0

REVIVE_SECONDS = 15.0
"""Between tries of a runtime that does not work; its probe may take seconds."""

TIDY_SECONDS = 3600.0
"""Between looks for snapshots that were only a fork's beginning, and for bytes nothing needs."""

_log = logging.getLogger(__name__)


class Upkeep:
    """Keeps an executor in order; `start` once, its tasks end with the executor's."""

    def __init__(self, fixtures: Fixtures, parts: Parts) -> None:
        self._fixtures = fixtures
        self._parts = parts

    def start(self) -> None:
        """Fill the pools, then look after everything."""
        self._keep_default()
        self._fixtures.prewarming.restore()
        spawn = self._fixtures.work.spawn
        spawn(self._maintain())
        spawn(self._revive())
        if self._parts.origins is not None:
            spawn(self._tidy(self._parts.origins))

    def _keep_default(self) -> None:
        settings = self._fixtures.settings
        if not settings.pool_size:
            return
        usual = ExecutionSpec(
            argv=("true",), image=settings.default_image, limits=settings.pool_limits
        )
        try:
            root = self._fixtures.images.resolve(usual.image)
            choice = self._fixtures.registry.choose(usual, root)
        except FaasError as failure:
            _log.warning("the default image is not kept ready", extra={"problem": failure.message})
            return
        template = template_of(choice, root, usual)
        self._fixtures.pool.keep(template, root, floor=settings.pool_size, image=usual.image)

    async def _maintain(self) -> None:
        while True:
            await self._fixtures.clock.sleep(MAINTENANCE_SECONDS)
            try:
                await self._maintain_once()
            except Exception:  # noqa: BLE001  the loop must outlive what one round met
                _log.exception("upkeep failed and is tried again")

    async def _maintain_once(self) -> None:
        fixtures, parts = self._fixtures, self._parts
        if not parts.intake.is_closed:
            fixtures.prewarming.tick()
            fixtures.pool.tick()
            parts.instances.tick()
        fixtures.parking.tick()
        if fixtures.keeping is not None:
            fixtures.keeping.layers.tick()
        parts.driver.end_overdue(list(parts.intake.actives.values()))
        settings = fixtures.settings
        for trimmed in parts.ledger.trim(settings.retention, now=fixtures.clock.now()):
            if trimmed.is_spooled:
                remove(output_files(settings.spool_dir, trimmed.id))
        if parts.ledger.wal_bytes() > CHECKPOINT_BYTES:
            await asyncio.to_thread(parts.ledger.checkpoint)

    async def _revive(self) -> None:
        """Try again, now and then, the runtimes that did not work: a daemon may have come back."""
        while True:
            await self._fixtures.clock.sleep(REVIVE_SECONDS)
            await self._fixtures.registry.revive()

    async def _tidy(self, origins: Origins) -> None:
        fixtures = self._fixtures
        while True:
            await fixtures.clock.sleep(TIDY_SECONDS)
            try:
                await origins.tidy(fixtures.settings, now=fixtures.clock.now())
            except Exception:  # noqa: BLE001  the loop must outlive what one round met
                _log.exception("old snapshots could not be tidied away")
