"""The one place that counts the requests being answered, and says when they are too many."""

import contextlib
from collections.abc import Iterator

from meshd.gateway.connection import ClientStream
from meshd.gateway.errors import Refusal


class Places:
    """A request takes one when its body is there: one that is slow to arrive keeps nobody out."""

    def __init__(self, places_max: int) -> None:
        self._free = places_max

    def check(self, count: int = 1) -> None:
        """Raises Refusal when so many are not free."""
        if self._free < count:
            raise Refusal("overloaded", "Too many requests at one time; try again shortly.")

    @contextlib.contextmanager
    def taken(self, client: ClientStream | None, count: int = 1) -> Iterator[None]:
        """Inside, so many are taken, and `client` is not ended for want of room. Raises Refusal."""
        self.check(count)
        self._free -= count
        if client is not None:
            client.is_answered = True
        try:
            yield
        finally:
            self._free += count
            if client is not None:
                client.is_answered = False
