"""The one place for one writer at a time on a stream that several tasks write to."""

import trio


class WriteLock:
    """As `trio.Lock`, but who finds it free has it at once: writing gives others their turn anyway,
    and a turn of the event loop for each token is what most of them would cost.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
