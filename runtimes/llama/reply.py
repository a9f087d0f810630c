"""The one place for one request in flight, seen from the daemon: what came, what is still owed."""

from collections import deque
from collections.abc import Callable

import trio

from runtimes.base import Chunk, Finished, GenerateEvent, RuntimeFailure
from runtimes.embedding import Vector
from runtimes.llama.frames import CREDIT_TOKENS

_EVENTS_MAX = CREDIT_TOKENS + 3
"""Every chunk has a token at least, a vector counts as one; besides there are Started, Finished and
a failure."""


class Overflow(Exception):
    """The worker sent more than it has credit for."""


class Reply:
    """A bounded queue between a link's reader and one `generate`.

    Chunks that come faster than they are taken become one: on a busy machine an answer goes in
    fewer pieces, and costs less on its whole way.
    """

    def __init__(
        self,
        request: int,
        *,
        on_end: Callable[[], None],
        on_credit: Callable[[int, int], None],
        on_leave: Callable[["Reply"], None],
    ) -> None:
        self.request = request
        self.left_at: float | None = None
        """When the consumer went away before the end, on trio's clock."""
        self._on_end = on_end
        self._on_credit = on_credit
        self._on_leave = on_leave
        self._events: deque[GenerateEvent | RuntimeFailure] = deque()
        self._came = trio.Event()
        """Something is in the queue."""
        self._ended = False
        self._credit = CREDIT_TOKENS
        self._taken = 0
        """Tokens that were taken since credit was last given."""

    @property
    def ended(self) -> bool:
        """Whether nothing more can come."""
        return self._ended

    @property
    def owes(self) -> bool:
        """Whether the worker has something to do for this request."""
        return not self._ended and self.left_at is None and self._credit > 0

    async def next(self) -> GenerateEvent:
        """The next event. Raises RuntimeFailure if that is what came."""
        await self._came.wait()
        event = self._events.popleft()
        if not self._events:
            self._came = trio.Event()
        if isinstance(event, RuntimeFailure):
            raise event
        return event

    def take(self, event: Chunk | Vector) -> None:
        """The consumer is done with `event`: let the worker go on for as many tokens."""
        self._taken += _cost(event)
        if self._taken >= CREDIT_TOKENS // 2 and not self._ended:
            tokens, self._taken = self._taken, 0
            self._credit += tokens
            self._on_credit(self.request, tokens)

    def leave(self) -> None:
        """The consumer goes; if the worker is not done, it is told to stop."""
        if not self._ended and self.left_at is None:
            self.left_at = trio.current_time()
            self._on_leave(self)

    def put(self, event: GenerateEvent) -> None:
        """Something came from the worker. Raises Overflow for what it had no credit for."""
        if isinstance(event, Chunk | Vector):
            self._credit -= _cost(event)
        if self._credit < 0 or (isinstance(event, Chunk) and not event.token_ids):
            raise Overflow
        self._pass_on(event)
        if isinstance(event, Finished):
            self.end()

    def fail(self, failure: RuntimeFailure) -> None:
        """The request is over, without its regular end."""
        if not self._ended:
            self._pass_on(failure)
            self.end()

    def end(self) -> None:
        """Nothing more comes; what is queued can still be taken."""
        if not self._ended:
            self._ended = True
            self._on_end()

    def _pass_on(self, event: GenerateEvent | RuntimeFailure) -> None:
        if self.left_at is not None:
            return
        before = self._events[-1] if self._events else None
        if isinstance(before, Chunk) and isinstance(event, Chunk):
            self._events[-1] = Chunk(
                before.token_ids + event.token_ids,
                before.text + event.text,
                before.logprobs + event.logprobs,
            )
            return
        if len(self._events) >= _EVENTS_MAX:
            raise Overflow
        self._events.append(event)
        self._came.set()


def _cost(event: Chunk | Vector) -> int:
    return len(event.token_ids) if isinstance(event, Chunk) else 1
