"""Many moves of jobs in one commit: a commit waits for the disk, and jobs come in crowds.

Whoever moves a job goes on when it is on disk, as without the group. A mover that was cancelled in
between (a reorg took its job) leaves nothing behind.
"""

import asyncio
from typing import Final

from faas.chain.journal import CallKey, JobState, Journal, Move

GROUP_SECONDS: Final = 0.004
"""About one commit's time on a slow disk: it doubles a lone job's share and spares a crowd's."""


class GroupCommit:
    """Collects moves for a moment and writes them together."""

    def __init__(self, journal: Journal, *, seconds: float = GROUP_SECONDS) -> None:
        self._journal = journal
        self._seconds = seconds
        self._waiting: list[tuple[Move, asyncio.Future[None]]] = []

    async def move(self, key: CallKey, to: JobState, *, result: bytes | None = None) -> None:
        """Move a job, and return when that is on disk.

        Raises:
            WrongStateError: it is not in a state from which that is legal.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((Move(key, to, result), done))
        if len(self._waiting) == 1:
            loop.call_later(self._seconds, self.flush)
        await done

    def flush(self) -> None:
        """Write what waits."""
        waiting = [(move, done) for move, done in self._waiting if not done.done()]
        self._waiting.clear()
        if not waiting:
            return
        try:
            refusals = self._journal.move_each([move for move, _ in waiting])
        except Exception as failure:  # noqa: BLE001  each mover gets it; none waits for ever
            for _, done in waiting:
                done.set_exception(failure)
            return
        for (_, done), refusal in zip(waiting, refusals, strict=True):
            if refusal is None:
                done.set_result(None)
            else:
                done.set_exception(refusal)
