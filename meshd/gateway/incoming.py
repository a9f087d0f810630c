"""The one place that reads a request's body, and notices that its client has gone.

Rule 1: `watch` runs as long as the request does and is the only reader of ASGI's `receive`.
Hypercorn hands body and disconnect over through one short queue; when nobody takes from it, its
connection task stands still, also while it ends.
Rule 2: what is too much is counted and dropped, never kept.
"""

from collections.abc import Callable

import trio
from starlette.datastructures import Headers
from starlette.types import Receive

from meshd.gateway.errors import Refusal
from meshd.gateway.limits import Limits

_NO_ROOM = "Too many large requests at one time; try again shortly."


class BodyBudget:
    """Bytes of request bodies that may be in memory at one time, over all requests.

    When they are spent, the body goes that has been arriving for the longest: what is slow keeps
    nobody out.
    """

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._arriving: dict[Incoming, None] = {}
        """The oldest first."""

    def take(self, size: int, body: "Incoming") -> bool:
        """Reserve `size` bytes for `body`; False when there is not so much room now."""
        self._arriving[body] = None
        while size > self._free:
            oldest = next(iter(self._arriving))
            if oldest is body:
                return False
            oldest.give_way()
        self._free -= size
        return True

    def has_arrived(self, body: "Incoming") -> None:
        """It is whole, or given up: it does not give way any more."""
        self._arriving.pop(body, None)

    def give_back(self, size: int) -> None:
        """Return what `take` reserved."""
        self._free += size


class Incoming:
    """One request's body as it arrives."""

    def __init__(
        self, receive: Receive, headers: Headers, *, limits: Limits, budget: BodyBudget
    ) -> None:
        self._receive = receive
        self._limits = limits
        self._budget = budget
        self._deadline = trio.current_time() + limits.body_s
        self._body = bytearray()
        self._taken = 0
        self._pieces = 0
        self._refusal: Refusal | None = None
        self._settled = trio.Event()
        """The body is complete or will not be kept."""
        self._ended = trio.Event()
        """The client has sent everything."""
        # h11 has checked that this is a number of at most 20 digits.
        announced = int(headers.get("content-length", "0"))
        if announced > limits.body_bytes_max:
            self._refuse("body_too_large", self._too_large())
        elif announced == 0 and "transfer-encoding" not in headers:
            self._settled.set()
            self._ended.set()

    @property
    def is_complete(self) -> bool:
        """Whether the client has sent its whole body."""
        return self._ended.is_set()

    async def watch(self, on_disconnect: Callable[[], None]) -> None:
        """Take messages until the client is gone; call `on_disconnect` then."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                on_disconnect()
                return
            self._keep(message.get("body", b""))
            if not message.get("more_body", False):
                self._budget.has_arrived(self)
                self._settled.set()
                self._ended.set()

    async def read(self) -> bytearray:
        """The whole body. Raises Refusal when it is too large, too slow or memory is short.

        Until `close` it can be read again.
        """
        with trio.move_on_at(self._deadline):
            await self._settled.wait()
        if not self._settled.is_set():
            self._refuse("body_too_slow", "The request's body did not arrive in time.")
        if self._refusal is not None:
            raise self._refusal
        return self._body

    def give_way(self) -> None:
        """Be given up for others, while arriving."""
        self._refuse("overloaded", _NO_ROOM)

    async def linger(self) -> None:
        """Let the client finish sending what nobody will read, for a bounded time.

        Closing a socket with unread data makes the kernel reset the connection, and the client
        would lose the answer that is on its way.
        """
        with trio.move_on_after(self._limits.linger_s):
            await self._ended.wait()

    def close(self) -> None:
        """Forget the body."""
        self._body = bytearray()
        self._budget.has_arrived(self)
        self._budget.give_back(self._taken)
        self._taken = 0

    def _keep(self, data: bytes) -> None:
        if self._refusal is not None or not data:
            return
        self._pieces += 1
        if len(self._body) + len(data) > self._limits.body_bytes_max:
            self._refuse("body_too_large", self._too_large())
        elif self._pieces > self._limits.body_pieces_max:
            self._refuse("body_too_large", "The request's body comes in too many pieces.")
        elif not self._budget.take(len(data), self):
            self._refuse("overloaded", _NO_ROOM)
        else:
            self._taken += len(data)
            self._body += data

    def _refuse(self, code: str, message: str) -> None:
        self._refusal = Refusal(code, message)
        self.close()
        self._settled.set()

    def _too_large(self) -> str:
        return f"The request's body is larger than {self._limits.body_bytes_max} bytes."
