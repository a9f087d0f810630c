"""The one place for one exchange with one candidate, as the asker, whatever is asked for.

It counts what this node has running where, reads the frames of an answer, and gives a candidate
up as soon as it is gone or the time is over. What the bodies mean is the caller's business.
"""

import contextlib
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
)
from typing import Final, TypeVar

import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.payloads import ANOTHER_VERSION, BadPayload
from meshd.peers import Kind, Peers, PeerUnreachable
from meshd.view import View
from protocol.errors import Refused
from protocol.exchange import (
    ANSWER_BYTES_MAX,
    Accept,
    Ask,
    Asker,
    Data,
    End,
    Fail,
    Refuse,
    encode_frame,
)
from protocol.identity import Address, NodeId

SEND_S: Final = 30.0
"""For a whole request to be taken."""
REASON_CHARS_MAX: Final = 200

T = TypeVar("T")


class AttemptFailed(Exception):
    """One candidate did not work out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Asking:
    """Asks one member at a time, for any number of requests."""

    def __init__(
        self,
        view: View,
        peers: Peers,
        addresses_of: Callable[[NodeId], tuple[Address, ...]],
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`caught_up` waits until this node knows who is no member any more (a few seconds)."""
        self._view = view
        self._peers = peers
        self._addresses_of = addresses_of
        self._caught_up = caught_up
        self.running: Counter[NodeId] = Counter()
        """What this node has running, by the node that it runs on."""

    @contextlib.contextmanager
    def counted(self, node: NodeId) -> Iterator[None]:
        """Inside this, one request more runs on `node`."""
        self.running[node] += 1
        try:
            yield
        finally:
            self.running[node] -= 1
            if self.running[node] <= 0:
                del self.running[node]

    async def ask(
        self, node: NodeId, kind: Kind, ask: Ask, codes: Collection[str]
    ) -> AsyncGenerator[Accept | Data | End, None]:
        """Send `ask`, and give the frames of the answer; close it with `aclosing`.

        `codes` are those that a peer may fail with; anything else counts as `unavailable`. Raises
        AttemptFailed.
        """
        await self._caught_up()
        try:
            async with self._peers.exchange(node, self._addresses_of(node), kind) as frames:
                await frames.send(encode_frame(ask), SEND_S)
                async with contextlib.aclosing(_answer_from(frames, codes)) as answer:
                    async for frame in answer:
                        yield frame
        except PeerUnreachable as error:
            raise AttemptFailed("unavailable", f"it cannot be reached ({error})") from error
        except StreamBroken as error:
            raise AttemptFailed("unavailable", f"its stream broke ({error})") from error
        except Refused as error:
            raise nonsense(error) from error

    async def next(self, node: NodeId, source: AsyncIterator[T], deadline: float) -> T | None:
        """The next item, None at the end. Raises AttemptFailed, also when the node is gone."""
        with trio.CancelScope(deadline=deadline) as scope, self._view.when_gone(node, scope.cancel):
            return await anext(source, None)
        if trio.current_time() >= deadline:
            raise AttemptFailed("timeout", "The request's time is over.")
        raise AttemptFailed("unavailable", "it is gone")


def nonsense(error: Refused | BadPayload) -> AttemptFailed:
    """What to raise for a peer whose answer cannot be read."""
    return AttemptFailed("unavailable", f"it sent nonsense ({error})")


async def _answer_from(
    frames: FrameStream, codes: Collection[str]
) -> AsyncGenerator[Accept | Data | End, None]:
    asker = Asker()
    while not asker.is_over:
        data = await frames.receive(ANSWER_BYTES_MAX)
        if data is None:
            raise StreamBroken("closed in the middle")
        match asker.receive(data):
            case Refuse(code, message) | Fail(code, message):
                raise _refused(code, message, codes)
            case frame:
                yield frame


def _refused(code: str, message: str, codes: Collection[str]) -> AttemptFailed:
    """What a peer said, made harmless: neither its code nor its words are to be believed."""
    if message == ANOTHER_VERSION:  # it is older, another one need not be
        code = "unavailable"
    reason = "".join(c if c.isprintable() else " " for c in message[:REASON_CHARS_MAX])
    return AttemptFailed(code if code in codes else "unavailable", reason)
