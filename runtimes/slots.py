"""The one place for whose turn it is: a runtime's slots and the queue in front of them.

The highest priority first, and among equals first come, first served; the queue is bounded, and
one request more is refused at once.
"""

import bisect

import trio

from runtimes.base import Load, RuntimeFailure


class Slots:
    """`slots` requests run at a time and `queue_max` wait. For trio tasks of one thread."""

    def __init__(self, slots: int, queue_max: int) -> None:
        assert slots >= 1
        assert queue_max >= 0
        self._slots = slots
        self._queue_max = queue_max
        self._running = 0
        self._waiting: list[tuple[int, trio.Event]] = []
        """Priority and turn of each, in the order in which they are due."""

    def resize(self, slots: int) -> None:
        """Run so many at a time from now on; who runs already is not stopped."""
        assert slots >= 1
        self._slots = slots
        while self._waiting and self._running < self._slots:
            self._running += 1
            self._waiting.pop(0)[1].set()

    @property
    def load(self) -> Load:
        """Requests waiting and running now."""
        return Load(queued=len(self._waiting), running=self._running, slots=self._slots)

    async def acquire(self, priority: int = 0) -> None:
        """Wait for a slot; whoever gets it calls `release` once. A higher `priority` is sooner.

        Raises RuntimeFailure `queue_full` when too many wait already. A cancelled wait leaves
        nothing behind.
        """
        if self._running < self._slots:
            self._running += 1
            return
        if len(self._waiting) >= self._queue_max:
            raise RuntimeFailure(
                "queue_full", f"{self._running} requests run and {len(self._waiting)} wait already"
            )
        turn = trio.Event()
        entry = (priority, turn)
        bisect.insort_right(self._waiting, entry, key=lambda waiting: -waiting[0])
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the slot and the cancellation came together
                self.release()
            else:
                self._waiting.remove(entry)
            raise

    def release(self) -> None:
        """Give a slot back; the one who waited longest has it now."""
        assert self._running >= 1
        if self._waiting and self._running <= self._slots:
            self._waiting.pop(0)[1].set()
        else:
            self._running -= 1
