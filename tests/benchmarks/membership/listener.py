"""The one place where the benchmark listens: lines of many processes, stamped as they arrive.

One thread, one selector, no polling of anybody: what is measured is not disturbed by who looks on.
"""

import os
import selectors
import time
from collections.abc import Callable
from typing import Final, Protocol

PUMP_S: Final = 0.25
"""At least so often a condition that is waited for is looked at."""
_READ_BYTES: Final = 65_536

Take = Callable[[float, bytes], None]
"""Gets (time.monotonic() of its arrival, one line without its end)."""


class Source(Protocol):
    """A pipe or a connected socket."""

    def fileno(self) -> int:
        """Its descriptor, readable."""
        ...

    def close(self) -> object:
        """Give it up."""
        ...


class Listener:
    """Reads lines from many sources and hands each on with its time of arrival."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, source: Source, take: Take) -> None:
        """Hand on the lines of `source` until its end, then close it."""
        self._selector.register(source, selectors.EVENT_READ, (source, take, bytearray()))

    def pump(self, within_s: float) -> None:
        """Hand on what has arrived; wait up to `within_s` if there is nothing."""
        for key, _ in self._selector.select(max(0.0, within_s)):
            source, take, tail = key.data
            at = time.monotonic()
            try:
                data = os.read(key.fd, _READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                self._selector.unregister(source)
                source.close()
                continue
            tail += data
            *lines, rest = bytes(tail).split(b"\n")
            tail[:] = rest
            for line in lines:
                take(at, line.rstrip(b"\r"))

    def rest(self, seconds: float) -> None:
        """Let time pass, listening."""
        self.until(lambda: False, seconds)

    def until(self, check: Callable[[], object], within_s: float) -> bool:
        """Listen until the condition holds; False when the time is over before."""
        deadline = time.monotonic() + within_s
        while not check():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self.pump(min(remaining_s, PUMP_S))
        return True
