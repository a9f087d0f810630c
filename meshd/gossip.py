"""The one place that drives `protocol.Node`: sockets and time in, effects out.

One task owns the node; everybody else puts events into its bounded inbox. The simulator's
`world.py` is this file's twin.
"""

import contextlib
import errno
import functools
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from meshd import clock
from meshd.frames import FrameStream, StreamBroken
from meshd.peers import Kind, Peers, PeerUnreachable
from meshd.recording import Recording
from meshd.resolver import Resolver
from protocol.codec import STREAM_BYTES_MAX
from protocol.deadlines import NEVER
from protocol.effects import (
    Admitted,
    AnswerStream,
    DatagramDropped,
    Effect,
    Issued,
    OpenStream,
    Persist,
    SendDatagram,
)
from protocol.errors import DropReason
from protocol.events import (
    DatagramReceived,
    DeadlineReached,
    Delayed,
    Event,
    Resumed,
    SendFailed,
    StreamFailed,
    StreamFailure,
    StreamReceived,
)
from protocol.identity import Address, NodeId
from protocol.node import Node

log = structlog.get_logger()

INBOX_EVENTS: Final = 2_048
BATCH_EVENTS: Final = 16
"""Handled at once; others get their turn in between."""
STREAMS_MAX: Final = 64
EXCHANGE_S: Final = 10.0
PEER_ANSWERS_MAX: Final = 8
"""Of one peer's messages at a time: an answer may be long, and whoever asked may take its time to
read it."""
GUEST_BYTES_MAX: Final = 2**20
"""A message of a key that is not admitted: decoded, one at a time, hostile bytes take many times
their size. `inbound.py` bounds how many guests there are."""
GAP_NS: Final = 2_000_000_000
"""Woken later than this: the process was stopped or the machine slept."""
LAG_NS: Final = 300_000_000
"""Late by more than this: the process or its machine is overloaded, and is told so."""
LAG_PAUSE_NS: Final = 1_000_000_000
"""At most one such report in this time."""
_QUIET_TURNS: Final = 2
"""In one turn the receiver may come after us; in two it has had its own."""
_RECEIVE_BYTES: Final = 2_048
"""More than any datagram of ours, so that a longer one is seen to be too long."""


class Gossip:
    """Runs one node on one UDP socket."""

    def __init__(
        self,
        node: Node,
        udp: trio.socket.SocketType,
        peers: Peers,
        *,
        persist: Callable[[Persist | Admitted | Issued], Awaitable[None]],
        on_effect: Callable[[Effect], None],
        recording: Recording | None = None,
    ) -> None:
        """`persist` makes own numbers and admissions durable; `on_effect` hears everything."""
        self._node = node
        self._udp = udp
        self._is_v6 = udp.family == socket.AF_INET6
        self._peers = peers
        self._persist = persist
        self._on_effect = on_effect
        self._handle = (
            node.handle if recording is None else functools.partial(recording.handle, node)
        )
        self._resolver = Resolver(udp.family)
        self._give, self._inbox = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._answers: dict[int, trio.MemorySendChannel[bytes]] = {}
        self._answering: Counter[NodeId] = Counter()
        self._stream_number = 0
        self._open_streams = 0
        self._lag_told_ns = 0
        self._has_lost = False
        """Whether the inbox was full lately."""
        self._nursery: trio.Nursery | None = None
        self.drops: Counter[str] = Counter()
        """Refusals by reason, `inbox_full` and `send_failed` among them."""

    # ---- what others use ----

    def give(self, event: Event) -> bool:
        """Put an event into the inbox; False (and counted) when it is full."""
        try:
            self._give.send_nowait(event)
        except trio.WouldBlock:
            self.drops["inbox_full"] += 1
            self._has_lost = True
            return False
        return True

    async def serve_stream(self, peer: NodeId, frames: FrameStream) -> None:
        """One exchange that a peer began: its message, our answer. Raises StreamBroken."""
        is_member = self._node.authority.admission(peer) is not None
        limit = STREAM_BYTES_MAX if is_member else GUEST_BYTES_MAX
        data = await frames.receive(limit, EXCHANGE_S)
        if data is None:
            raise StreamBroken("closed before its message")
        if self._answering[peer] >= PEER_ANSWERS_MAX:
            raise StreamBroken("too many at one time", "too_many_of_one")
        self._stream_number += 1
        number = self._stream_number
        send, receive = trio.open_memory_channel[bytes](1)
        self._answers[number] = send
        self._answering[peer] += 1
        try:
            if not self.give(StreamReceived(number, peer, data, clock.wall_s())):
                raise StreamBroken("too busy")
            with trio.move_on_after(EXCHANGE_S):
                await frames.send(await receive.receive(), timeout_s=EXCHANGE_S)
                return
            raise StreamBroken("there is nothing to answer")
        except trio.EndOfChannel as error:
            raise StreamBroken("there is nothing to answer") from error
        finally:
            del self._answers[number]
            self._answering[peer] -= 1
            if not self._answering[peer]:
                del self._answering[peer]

    # ---- the tasks ----

    async def run(self) -> None:
        """Drive the node until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._receive_datagrams)
            nursery.start_soon(self._resolver.run)
            await self._own_node()

    async def _receive_datagrams(self) -> None:
        while True:
            try:
                data, source = await self._udp.recvfrom(_RECEIVE_BYTES)
            except OSError as error:
                # An ICMP answer to something we sent (ECONNREFUSED and its like): it proves
                # nothing, and the socket works on.
                self.drops[f"receive_{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                await trio.lowlevel.checkpoint()
                continue
            self.give(DatagramReceived(data, _source_address(source)))

    async def _own_node(self) -> None:
        """Take events in order and deadlines when they come; the only task that calls handle."""
        while True:
            deadline = self._node.deadline
            event: Event | None = None
            pause_s = max(0.0, (deadline - clock.now_ns()) / 1e9) if deadline < NEVER else 3600.0
            with trio.move_on_after(pause_s):
                event = await self._inbox.receive()
            now = clock.now_ns()
            if now - deadline > GAP_NS:
                await self._take([Resumed(now - deadline)])
            elif self._is_unwell(now - deadline) and now - self._lag_told_ns > LAG_PAUSE_NS:
                self._lag_told_ns = now
                self._has_lost = False
                await self._take([Delayed(max(0, now - deadline))])
            if event is not None:
                await self._take([event, *self._waiting(BATCH_EVENTS - 1)])
                continue
            await self._take_what_has_come()
            if self._node.deadline <= clock.now_ns():
                await self._take([DeadlineReached()])

    async def _take_what_has_come(self) -> None:
        """What has arrived is older than the deadline: an ack must not lose to its time-out. The
        socket hands out one datagram a turn of the loop, so it is empty only when turns bring
        nothing more; a flood is not waited for.
        """
        taken = quiet = 0
        while quiet < _QUIET_TURNS and taken < INBOX_EVENTS:
            await trio.lowlevel.checkpoint()
            late = self._waiting(BATCH_EVENTS)
            quiet = 0 if late else quiet + 1
            taken += len(late)
            if late:
                await self._take(late)

    def _is_unwell(self, lag_ns: int) -> bool:
        return self._has_lost or lag_ns > LAG_NS

    def _waiting(self, count: int) -> list[Event]:
        """What waits in the inbox, at most so much."""
        events: list[Event] = []
        with contextlib.suppress(trio.WouldBlock):
            while len(events) < count:
                events.append(self._inbox.receive_nowait())
        return events

    async def _take(self, events: Sequence[Event]) -> None:
        """Handle what has come, then do what follows from it.

        What must be on disk is written once for all of them, before anything is sent: a storm of
        newcomers would else wait for one write after the other.
        """
        effects: list[Effect] = []
        for event in events:
            effects += self._handle(event, clock.now_ns())
        for kind in (Persist, Admitted, Issued):
            durable = [effect for effect in effects if isinstance(effect, kind)]
            if durable:
                await self._persist(durable[-1])
        for effect in effects:
            await self._carry_out(effect)
        for event in events:
            if isinstance(event, StreamReceived):
                self._end_unanswered(event.stream)

    def _end_unanswered(self, number: int) -> None:
        """Tell a waiting stream that no answer comes; one that got its answer has it buffered."""
        answer = self._answers.get(number)
        if answer is not None:
            answer.close()

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                await self._send(effect)
            case OpenStream():
                self._start_exchange(effect)
            case AnswerStream():
                answer = self._answers.get(effect.stream)
                if answer is not None:
                    answer.send_nowait(effect.data)
            case DatagramDropped():
                self._count(effect.reason)
        self._on_effect(effect)

    def _count(self, reason: DropReason) -> None:
        self.drops[reason.value] += 1

    async def _send(self, effect: SendDatagram) -> None:
        host = self._resolver.literal(effect.to.host)
        if host is None:
            self.drops["name_unresolved"] += 1
            return
        if self._is_v6 and ":" not in host:
            host = f"::ffff:{host}"
        try:
            await self._udp.sendto(effect.data, (host, effect.to.port))
        except (OSError, UnicodeError) as error:  # UnicodeError: no host can have that name
            self.drops["send_failed"] += 1
            log.debug("datagram.send_failed", to=str(effect.to), reason=str(error))
            self.give(SendFailed(effect.to))

    def _start_exchange(self, effect: OpenStream) -> None:
        if self._open_streams >= STREAMS_MAX or self._nursery is None:
            self.drops["streams_full"] += 1
            return
        self._open_streams += 1
        self._nursery.start_soon(self._exchange, effect)

    async def _exchange(self, effect: OpenStream) -> None:
        try:
            with trio.fail_after(EXCHANGE_S):
                async with self._peers.exchange(
                    effect.peer, effect.addresses, Kind.GOSSIP
                ) as frames:
                    await frames.send(effect.data)
                    answer = await frames.receive(STREAM_BYTES_MAX)
                    if answer is None:
                        raise StreamBroken("closed without an answer")
        except (PeerUnreachable, StreamBroken, trio.TooSlowError) as error:
            log.debug("exchange.failed", reason=str(error))
            self.give(StreamFailed(effect.peer, _failure(error)))
            return
        finally:
            self._open_streams -= 1
        self.give(StreamReceived(0, effect.peer, answer, clock.wall_s()))


def _failure(error: Exception) -> StreamFailure:
    if isinstance(error, trio.TooSlowError):
        return StreamFailure.TIMED_OUT
    if isinstance(error, PeerUnreachable) and error.is_refused:
        return StreamFailure.REFUSED
    return StreamFailure.OTHER


def _source_address(source: tuple[object, ...]) -> Address:
    host, port = str(source[0]), source[1]
    assert isinstance(port, int)
    return Address(host.removeprefix("::ffff:").partition("%")[0], port)
