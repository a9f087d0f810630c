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
        self._look: Look = nothing

    def now(self) -> Outlook:
        """What it waits for."""
        return self._look()

    @contextlib.contextmanager
    def told_by(self, look: Look) -> Iterator[None]:
        """Inside this, `look` knows it. Of several attempts the last one is asked."""
        self._look = look
        try:
            yield
        finally:
            if self._look is look:
                self._look = nothing
