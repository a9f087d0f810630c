"""The one place for frames on a stream: four bytes of length, then that many bytes."""

import math
from typing import Final

import trio

_HEADER_BYTES: Final = 4
_READ_BYTES: Final = 65_536


class StreamBroken(Exception):
    """The peer closed, reset, overran a limit or a deadline; the stream is of no use any more."""


class FrameStream:
    """Whole frames over any trio stream. One task sends and one receives at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, frame: bytes, timeout_s: float = math.inf) -> None:
        """Send one frame. Raises StreamBroken, also when the peer does not read for `timeout_s`."""
        try:
            with trio.fail_after(timeout_s):
                await self._stream.send_all(len(frame).to_bytes(_HEADER_BYTES, "big") + frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise StreamBroken(_reason(error)) from error

    async def receive(self, bytes_max: int, timeout_s: float = math.inf) -> bytes | None:
        """The next frame; None when the peer closed between frames.

        Raises StreamBroken: reset, closed inside a frame, longer than `bytes_max`, too late.
        """
        try:
            with trio.fail_after(timeout_s):
                if not await self._fill(_HEADER_BYTES):
                    return None
                size = int.from_bytes(self._buffer[:_HEADER_BYTES], "big")
                if size > bytes_max:
                    raise StreamBroken(f"a frame of {size} bytes, over the limit of {bytes_max}")
                if not await self._fill(_HEADER_BYTES + size):
                    raise StreamBroken("closed inside a frame")
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise StreamBroken(_reason(error)) from error
        frame = bytes(self._buffer[_HEADER_BYTES : _HEADER_BYTES + size])
        del self._buffer[: _HEADER_BYTES + size]
        return frame

    async def _fill(self, count: int) -> bool:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                if self._buffer:
                    raise StreamBroken("closed inside a frame")
                return False
            self._buffer += data
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing unread is buffered; a pooled stream must be."""
        return not self._buffer

    async def aclose(self) -> None:
        """Close at once, without the TLS goodbye: every exchange has its own end."""
        await trio.aclose_forcefully(self._stream)


def _reason(error: BaseException) -> str:
    return "too slow" if isinstance(error, trio.TooSlowError) else "reset"
