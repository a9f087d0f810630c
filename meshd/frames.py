"""The one place for frames on a stream: four bytes of length, then that many bytes.

Every frame has a deadline that suits its size, for whoever reads it and for whoever writes it: one
byte a second, or a window that nobody empties, holds a stream for seconds and not for ever.
"""

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio

FRAME_S: Final = 10.0
"""For a frame that has begun to be whole, besides the time that its size takes."""
BYTES_PER_S_MIN: Final = 131_072
"""Slower than this (a megabit a second) nobody may send or take a long frame."""
_HEADER_BYTES: Final = 4
_READ_BYTES: Final = 65_536


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

    async def send(self, frame: bytes, timeout_s: float = FRAME_S) -> None:
        """Send one frame. Raises StreamBroken, also when the peer does not take it: within
        `timeout_s` and the time for its size.
        """
        self._check()
        with _broken_as_said(), trio.fail_after(timeout_s + size_s(len(frame))):
            await self._stream.send_all(len(frame).to_bytes(_HEADER_BYTES, "big") + frame)

    async def receive(self, bytes_max: int, timeout_s: float = math.inf) -> bytes | None:
        """The next frame; None when the peer closed between frames.

        It must begin within `timeout_s`, and then be whole within FRAME_S and the time for its
        size. Raises StreamBroken: reset, closed inside a frame, longer than `bytes_max`, too late.
        """
        self._check()
        with _broken_as_said():
            is_there = False
            with trio.move_on_after(timeout_s):
                if not await self._fill(1):
                    return None
                is_there = True
            if not is_there:
                raise StreamBroken("too slow", "silent")
            with trio.fail_after(FRAME_S) as scope:
                await self._fill_frame(_HEADER_BYTES)
                size = int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
                if size > bytes_max:
                    message = f"a frame of {size} bytes, over the limit of {bytes_max}"
                    raise StreamBroken(message, "frame_too_long")
                scope.deadline += size_s(size)
                async with self._room(size) if self._room else contextlib.nullcontext():
                    await self._fill_frame(_HEADER_BYTES + size)
        with memoryview(self._buffer) as view:
            frame = bytes(view[_HEADER_BYTES : _HEADER_BYTES + size])
        del self._buffer[: _HEADER_BYTES + size]
        return frame

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


@contextlib.contextmanager
def _broken_as_said() -> Iterator[None]:
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise StreamBroken("reset") from error
    except trio.TooSlowError as error:
        raise StreamBroken("too slow", "too_slow") from error
