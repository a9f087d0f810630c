"""The one place for one exchange with one candidate, as the asker, whatever is asked for.

It counts what this node has running where, reads the frames of an answer, and gives a candidate
up as soon as it is gone or the time is over. What the bodies mean is the caller's business.
"""

import contextlib
import dataclasses
import math
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

from meshd.frames import FrameStream, StreamBroken, size_s
from meshd.payloads import ANOTHER_VERSION, BadPayload
from meshd.peers import Kind, Peers, PeerUnreachable
from meshd.view import View
from meshd.watchdogs import CONTACT_S, SILENCE_S
from protocol.errors import Refused
from protocol.events import ContactLost, Event
from protocol.exchange import (
    ANSWER_BYTES_MAX,
    Accept,
    Ask,
    Asker,
    Data,
    End,
    Fail,
    Heartbeat,
    Refuse,
    encode_frame,
)
from protocol.identity import Address, NodeId

REASON_CHARS_MAX: Final = 200
SHORT_BYTES: Final = 16_384
"""An Ask up to this leaves with the opening of its exchange. To hand over a longer one takes time,
and nobody who waits to be connected shall wait for that."""
CONNECTING_MAX: Final = 8
"""Connections to one member that are made at a time. When a node is lost, all that it had under way
goes on elsewhere at once; were all handshakes begun together, none would be done in time."""
TURN_S: Final = 10.0
"""For a turn to be connected. All streams of a lost node have theirs in a fraction of it; one whose
handshakes each take seconds is no place for so many."""
LAST_FRAMES_S: Final = 0.25
"""What a member sent before it said goodbye may arrive so long after that, and is read."""
TIMEOUT: Final = "timeout"
TIME_IS_OVER: Final = "The request's time is over."
RETRY_S_MAX: Final = 3_600.0
"""Of what a peer says when to ask again."""

T = TypeVar("T")


class AttemptFailed(Exception):
    """One candidate did not work out."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        is_lost: bool = False,
        is_unreached: bool = False,
        is_refusal: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.is_lost = is_lost or is_unreached
        """It has said nothing against the request: what lies between broke."""
        self.is_unreached = is_unreached
        """Nothing at all is heard of it."""
        self.is_refusal = is_refusal
        """It has said so before anything was done."""
        self.retry_after_s = retry_after_s
        """When it may work out, as the candidate says."""


@dataclasses.dataclass(slots=True)
class _Turns:
    """To be connected to one member."""

    places: trio.CapacityLimiter = dataclasses.field(
        default_factory=lambda: trio.CapacityLimiter(CONNECTING_MAX)
    )
    failed_at: float = -math.inf
    """When nobody answered there last: who waits then need not find out for himself."""
    connected_at: float = -math.inf
    """When somebody was connected last."""


class Asking:
    """Asks one member at a time, for any number of requests."""

    def __init__(
        self,
        view: View,
        peers: Peers,
        addresses_of: Callable[[NodeId], tuple[Address, ...]],
        caught_up: Callable[[], Awaitable[None]],
        give: Callable[[Event], object],
    ) -> None:
        """`caught_up` waits until this node knows who is no member any more (a few seconds);
        `give` tells the node of a member that broke off an exchange, or fell silent in one.
        """
        self._view = view
        self._peers = peers
        self._addresses_of = addresses_of
        self._caught_up = caught_up
        self._give = give
        self._turns: dict[NodeId, _Turns] = {}
        """Of those to whom somebody is being connected."""
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
        self,
        node: NodeId,
        kind: Kind,
        ask: Ask,
        codes: Collection[str],
        contact_s: float = CONTACT_S,
    ) -> AsyncGenerator[Accept | Data | Heartbeat | End, None]:
        """Send `ask`, and give the frames of the answer, with those that only say that it lives, if
        it was asked for them; close it with `aclosing`.

        `codes` are those that a peer may fail with; anything else counts as `unavailable`. One that
        was asked for heartbeats and is silent for longer than a few of them is given up.
        `contact_s`: to be reached within. Raises AttemptFailed.
        """
        await self._caught_up()
        silence_s = SILENCE_S if ask.heartbeat_ms else math.inf
        asker = Asker()
        try:
            async with contextlib.AsyncExitStack() as stack:
                frames = await self._contact(stack, node, kind, ask, contact_s)
                while True:
                    frame = await _next_frame(frames, asker, silence_s)
                    if asker.is_over:
                        break
                    if isinstance(frame, Accept | Data | Heartbeat):
                        yield frame
        except PeerUnreachable as error:
            self._give(ContactLost(node))
            reason = f"it cannot be reached ({error})"
            raise AttemptFailed("unavailable", reason, is_unreached=True) from error
        except StreamBroken as error:
            self._give(ContactLost(node))
            is_silent = error.fault == "silent"
            reason = "it fell silent" if is_silent else f"its stream broke ({error})"
            raise AttemptFailed(
                "unavailable", reason, is_lost=True, is_unreached=is_silent
            ) from error
        except Refused as error:
            raise nonsense(error) from error
        # Only now, when the connection waits for the next exchange: who has the last frame stops
        # reading, and that would have closed it.
        match frame:
            case End():
                yield frame
            case Refuse(code, message, retry_after_ms, load):
                self._view.hear_load(node, load)
                retry_s = min(retry_after_ms / 1000, RETRY_S_MAX)
                raise _failed(code, message, codes, is_refusal=True, retry_after_s=retry_s)
            case Fail(code, message):
                raise _failed(code, message, codes)

    async def _contact(
        self,
        stack: contextlib.AsyncExitStack,
        node: NodeId,
        kind: Kind,
        ask: Ask,
        contact_s: float,
    ) -> FrameStream:
        """Hand the request over. Raises PeerUnreachable, StreamBroken and AttemptFailed."""
        data = encode_frame(ask)
        short = [data] if len(data) <= SHORT_BYTES else []
        waits_since = trio.current_time()
        async with self._turn(node) as turns:
            if turns.failed_at >= waits_since:
                raise PeerUnreachable("others could not reach it just now")
            until = trio.current_time() + contact_s
            try:
                with trio.fail_at(until):
                    addresses = self._addresses_of(node)
                    exchange = self._peers.exchange(node, addresses, kind, *short)
                    frames = await stack.enter_async_context(exchange)
                turns.connected_at = trio.current_time()
            except PeerUnreachable as error:
                if error.is_refused:
                    turns.failed_at = trio.current_time()
                raise
            except trio.TooSlowError as error:
                turns.failed_at = trio.current_time()
                raise PeerUnreachable("no answer") from error
        if short:
            return frames
        with trio.move_on_at(until + size_s(len(data))):
            await frames.send(data)
            return frames
        raise PeerUnreachable("no answer")

    @contextlib.asynccontextmanager
    async def _turn(self, node: NodeId) -> AsyncGenerator[_Turns, None]:
        turns = self._turns.setdefault(node, _Turns())
        waits_since = trio.current_time()
        try:
            with trio.move_on_after(TURN_S) as waiting:
                await turns.places.acquire()
            if waiting.cancelled_caught:
                reason = "others are still being connected to it"
                if turns.connected_at < waits_since:
                    raise PeerUnreachable(reason)
                raise AttemptFailed("unavailable", reason)
            try:
                yield turns
            finally:
                turns.places.release()
        finally:
            if not turns.places.borrowed_tokens and not turns.places.statistics().tasks_waiting:
                self._turns.pop(node, None)

    async def next(
        self, node: NodeId, source: AsyncIterator[T], deadline: float, limit_s: float = math.inf
    ) -> T | None:
        """The next item, None at the end. Raises AttemptFailed, also when the node is gone, or
        nothing came for `limit_s`.

        One that left has said so after its last frames, but by another way: it is given up only
        when nothing comes of it for LAST_FRAMES_S.
        """
        until = min(deadline, trio.current_time() + limit_s)

        def give_up() -> None:
            if self._view.has_left(node):
                scope.deadline = min(until, trio.current_time() + LAST_FRAMES_S)
            else:
                scope.cancel()

        with trio.CancelScope(deadline=until) as scope, self._view.when_gone(node, give_up):
            return await anext(source, None)
        now = trio.current_time()
        if now >= deadline:
            raise AttemptFailed(TIMEOUT, TIME_IS_OVER)
        if now >= until:
            raise AttemptFailed("unavailable", f"nothing came of it for {limit_s:.0f} s")
        raise AttemptFailed("unavailable", "it is gone", is_unreached=True)


def nonsense(error: Refused | BadPayload) -> AttemptFailed:
    """What to raise for a peer whose answer cannot be read."""
    return AttemptFailed("unavailable", f"it sent nonsense ({error})")


async def _next_frame(
    frames: FrameStream, asker: Asker, silence_s: float
) -> Accept | Refuse | Data | Heartbeat | End | Fail:
    data = await frames.receive(ANSWER_BYTES_MAX, silence_s)
    if data is None:
        raise StreamBroken("closed in the middle")
    return asker.receive(data)


def _failed(
    code: str,
    message: str,
    codes: Collection[str],
    *,
    is_refusal: bool = False,
    retry_after_s: float | None = None,
) -> AttemptFailed:
    """What a peer said, made harmless: neither its code nor its words are to be believed."""
    if message == ANOTHER_VERSION:  # it is older, another one need not be
        code = "unavailable"
    reason = "".join(c if c.isprintable() else " " for c in message[:REASON_CHARS_MAX])
    known = code if code in codes else "unavailable"
    return AttemptFailed(known, reason, is_refusal=is_refusal, retry_after_s=retry_after_s)
