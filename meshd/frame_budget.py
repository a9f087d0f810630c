"""The one place that bounds the memory of frames while they arrive, for each peer and for all.

A frame is of use only when it is whole, so what has come of it waits in memory; without a bound a
member could leave a long one unfinished on each of its streams. A long frame waits until there is
room: nothing of it is read meanwhile, so that its sender waits as well. Short ones are free, for
their number is bounded (`inbound.py`).
"""

from collections import Counter
from collections.abc import Hashable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALL_BYTES_MAX: Final = 256 * 2**20
PEER_BYTES_MAX: Final = 32 * 2**20
"""Two of the longest frames at a time."""
SHORT_BYTES: Final = 65_536


class FrameBudget:
    """Room for long frames that are arriving."""

    def __init__(self) -> None:
        self.taken: Counter[Hashable] = Counter()
        """Bytes by peer; peers that have nothing on its way are not in it."""
        self._room_came = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def room(self, peer: Hashable, size: int) -> "AsyncIterator[None]":
        """Inside this, `size` bytes of `peer` may be in memory; waits until they may."""
        if size <= SHORT_BYTES:
            yield
            return
        while not self._fits(peer, size):
            await self._room_came.park()
        self.taken[peer] += size
        try:
            yield
        finally:
            self.taken[peer] -= size
            if not self.taken[peer]:
                del self.taken[peer]
            self._room_came.unpark_all()

    def _fits(self, peer: Hashable, size: int) -> bool:
        of_peer = self.taken[peer] + size <= PEER_BYTES_MAX
        return of_peer and self.taken.total() + size <= ALL_BYTES_MAX
