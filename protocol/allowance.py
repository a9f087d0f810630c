"""The one place for "at most so many per second"."""

from protocol.config import SECOND


class Allowance:
    """Grants up to `per_second` in each second; unused ones do not add up."""

    __slots__ = ("_left", "_per_second", "_since_ns")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = per_second
        self._since_ns = 0

    def take(self, now: int) -> bool:
        """Use one up; False when none is left in this second."""
        if now - self._since_ns >= SECOND:
            self._since_ns = now
            self._left = self._per_second
        if self._left <= 0:
            return False
        self._left -= 1
        return True
