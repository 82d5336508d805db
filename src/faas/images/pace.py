"""A pull tells hundreds of times a second; this passes on what somebody can read."""

from faas.clock import Clock
from faas.events import EventBus, ImagePullProgressed
from faas.model import PullStep
from faas.sandbox.image_keeper import Told

_TOLD_SECONDS = 0.25
"""Between two steps of one layer."""


class Paced:
    """Tells of each layer's every change of state, and of its bytes a few times a second."""

    def __init__(self, reference: str, events: EventBus, clock: Clock, told: Told) -> None:
        self._reference = reference
        self._events = events
        self._clock = clock
        self._told = told
        self._last: dict[str | None, tuple[str, int]] = {}

    def __call__(self, step: PullStep) -> None:
        now = self._clock.monotonic_ns()
        status, at = self._last.get(step.layer, ("", 0))
        if step.status == status and now - at < _TOLD_SECONDS * 1e9:
            return
        self._last[step.layer] = (step.status, now)
        self._told(step)
        self._events.publish(ImagePullProgressed(reference=self._reference, step=step))
