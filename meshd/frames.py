"""The one place for frames on a stream: four bytes of length, then that many bytes.

Every frame has a deadline that suits its size, for whoever reads it and for whoever writes it: one
byte a second, or a window that nobody empties, holds a stream for seconds and not for ever.
"""

import contextlib
import math
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio

FRAME_S: Final = 10.0
"""For a frame that has begun to be whole, besides the time that its size takes."""
BYTES_PER_S_MIN: Final = 131_072
"""Slower than this (a megabit a second) nobody may send or take a long frame."""
LAST_LOOK_S: Final = 0.05
"""For a frame that is late to begin: it may be this process that stood still, and when it goes on,
a deadline is noticed a turn or two before what has come."""
_HEADER_BYTES: Final = 4
_READ_BYTES: Final = 65_536
_RESET: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class StreamBroken(Exception):
    """The peer closed, reset, overran a limit or a deadline; the stream is of no use any more."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        """What the peer did wrong, as it is counted; empty when it only went away."""


class Room(Protocol):
    """Where long frames wait for their turn; see `frame_budget.py`."""

    def __call__(self, size: int, /) -> AbstractAsyncContextManager[None]:
        """Room for so many bytes while inside."""


def size_s(size: int) -> float:
    """How many seconds so many bytes may take at the least speed."""
    return size / BYTES_PER_S_MIN


class FrameStream:
    """Whole frames over any trio stream. One task sends and one receives at a time."""

    def __init__(self, stream: trio.abc.Stream, room: Room | None = None) -> None:
        """`room`: waits until a long frame may be read; None: any frame may."""
        self._stream = stream
        self._room = room
        self._buffer = bytearray()
        self._is_cut = False

    async def send(self, *frames: bytes, timeout_s: float = FRAME_S) -> None:
        """Send frames, in one piece. Raises StreamBroken, also when the peer does not take them:
        within `timeout_s` and the time for their size.
        """
        self._check()
        data = b"".join(len(frame).to_bytes(_HEADER_BYTES, "big") + frame for frame in frames)
        try:
            with trio.move_on_after(timeout_s + size_s(len(data))):
                await self._stream.send_all(data)
                return
        except _RESET as error:
            raise StreamBroken("reset") from error
        raise _too_slow()

    async def receive(self, bytes_max: int, timeout_s: float = math.inf) -> bytes | None:
        """The next frame; None when the peer closed between frames.

        It must begin within `timeout_s`, and then be whole within FRAME_S and the time for its
        size. Raises StreamBroken: reset, closed inside a frame, longer than `bytes_max`, too late.
        """
        self._check()
        try:
            if not await self._has_begun(timeout_s):
                return None
            end = _HEADER_BYTES + await self._size_when_whole(bytes_max)
        except _RESET as error:
            raise StreamBroken("reset") from error
        with memoryview(self._buffer) as view:
            frame = bytes(view[_HEADER_BYTES:end])
        del self._buffer[:end]
        return frame

    async def _has_begun(self, timeout_s: float) -> bool:
        """Wait for the first byte of a frame; False when the peer closed."""
        if self._buffer:
            # Many frames that came at once hold up nobody.
            await trio.lowlevel.checkpoint()
            self._check()
            return True
        for wait_s in (timeout_s, LAST_LOOK_S):
            with trio.move_on_after(wait_s):
                return await self._fill(1)
        raise StreamBroken("too slow", "silent")

    async def _size_when_whole(self, bytes_max: int) -> int:
        """Wait until the frame that has begun is whole."""
        if len(self._buffer) >= _HEADER_BYTES:  # mostly it is, and needs no deadline
            size = self._announced(bytes_max)
            if len(self._buffer) >= _HEADER_BYTES + size:
                return size
        with trio.move_on_after(FRAME_S) as scope:
            await self._fill_frame(_HEADER_BYTES)
            size = self._announced(bytes_max)
            scope.deadline += size_s(size)
            async with self._room(size) if self._room else contextlib.nullcontext():
                await self._fill_frame(_HEADER_BYTES + size)
            return size
        raise _too_slow()

    def _announced(self, bytes_max: int) -> int:
        size = int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
        if size > bytes_max:
            message = f"a frame of {size} bytes, over the limit of {bytes_max}"
            raise StreamBroken(message, "frame_too_long")
        return size

    async def _fill_frame(self, count: int) -> None:
        if not await self._fill(count):
            raise StreamBroken("closed inside a frame", "cut_off")

    async def _fill(self, count: int) -> bool:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(_READ_BYTES)
            self._check()
            if not data:
                return False
            self._buffer += data
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing unread is buffered; a pooled stream must be."""
        return not self._buffer

    def cut(self) -> None:
        """Nothing is sent or received from now on; what has come already counts no more."""
        self._is_cut = True
        self._buffer.clear()

    def _check(self) -> None:
        if self._is_cut:
            raise StreamBroken("it was cut")

    async def aclose(self) -> None:
        """Close at once, without the TLS goodbye: every exchange has its own end."""
        await trio.aclose_forcefully(self._stream)


def _too_slow() -> StreamBroken:
    return StreamBroken("too slow", "too_slow")
