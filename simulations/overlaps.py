"""The one place for acts of one kind that go on for one host at once: each ends by itself.

Of those that go on, the one that began last holds. When it ends, the one before it holds again;
when another ends, nothing changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

Hold = Callable[[int, Any], None]
"""Let something hold for a host; None: nothing of this kind does any more."""


class Overlaps:
    """What goes on for each host of a world, by kind."""

    def __init__(self) -> None:
        self._going_on: dict[tuple[str, int], dict[int, Any]] = {}
        """By the number of the act, in order of their beginning."""
        self._number = 0

    def begin(
        self, kind: str, hosts: Sequence[int], value: object, hold: Hold
    ) -> Callable[[], None]:
        """From now on `value` holds for these hosts; what this returns ends it, once."""
        self._number += 1
        number = self._number
        for host in hosts:
            self._going_on.setdefault((kind, host), {})[number] = value
            hold(host, value)
        return lambda: self._end(kind, hosts, number, hold)

    def _end(self, kind: str, hosts: Sequence[int], number: int, hold: Hold) -> None:
        for host in hosts:
            values = self._going_on.get((kind, host), {})
            if number not in values:
                continue
            was_last = next(reversed(values)) == number
            del values[number]
            if not values:
                del self._going_on[kind, host]
            if was_last:
                hold(host, next(reversed(values.values()), None))
