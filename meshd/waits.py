"""The one place where a request's app learns what it waits for, from whoever runs it."""

import contextlib
from collections.abc import Callable, Iterator

from protocol.outlook import NOTHING, Outlook

Look = Callable[[], Outlook]
"""What a request waits for now."""


def nothing() -> Outlook:
    """For what waits for nothing."""
    return NOTHING


class Waits:
    """Of one request: looked at when its client is to be told, so that nobody computes in vain."""

    def __init__(self) -> None:
        self._looks: list[Look] = []
        """Of the attempts under way, the last one at the end."""

    def now(self) -> Outlook:
        """What it waits for."""
        return self._looks[-1]() if self._looks else NOTHING

    @contextlib.contextmanager
    def told_by(self, look: Look) -> Iterator[None]:
        """Inside this, `look` knows it. Of several attempts the last one is asked."""
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)
