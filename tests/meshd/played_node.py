"""The one place for a node that plays what a test wrote down, and the driver around it."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import trio

from meshd.gossip import Gossip
from meshd.peers import Peers
from meshd.recording import Recording
from protocol.deadlines import NEVER
from protocol.effects import (
    Admitted,
    Effect,
    Issued,
    Persist,
)
from protocol.events import (
    DeadlineReached,
    Event,
)
from protocol.identity import Address, NodeId
from protocol.node import Node
from tests.meshd.members import TIMEOUT_S, until

PEER = NodeId(b"p" * 32)


class PlayedNode:
    """Notes its events and answers each with what the test wrote down for its type."""

    def __init__(self, **effects: Sequence[Effect]) -> None:
        self.effects = effects
        self.events: list[Event] = []
        self.times: list[int] = []
        self.deadline = NEVER
        self.after_deadline = NEVER
        self.on_event: Callable[[Event], None] = lambda event: None
        self.is_member = True
        self.authority = SimpleNamespace(
            admission=lambda node: object() if self.is_member else None
        )

    def handle(self, event: Event, now: int) -> list[Effect]:
        self.events.append(event)
        self.times.append(now)
        if isinstance(event, DeadlineReached):
            self.deadline = self.after_deadline
        self.on_event(event)
        return list(self.effects.get(type(event).__name__, ()))

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class Driven:
    """A Gossip around a played node, on loopback."""

    def __init__(
        self,
        node: PlayedNode,
        udp: trio.socket.SocketType,
        peers: Peers | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.node = node
        self.udp = udp
        self.persisted: list[Effect] = []
        self.effects: list[Effect] = []
        self.gossip = Gossip(
            cast("Node", node),
            udp,
            cast("Peers", peers),
            persist=self._persist,
            on_effect=self.effects.append,
            recording=recording,
        )
        host, port = udp.getsockname()[:2]
        self.address = Address(host, port)

    async def _persist(self, effect: Persist | Admitted | Issued) -> None:
        await trio.lowlevel.checkpoint()
        self.persisted.append(effect)

    async def seen(self, kind: str, count: int = 1) -> list[Event]:
        """Waits until the node has had so many events of this kind."""
        await until(lambda: self.node.kinds().count(kind) >= count)
        return [event for event in self.node.events if type(event).__name__ == kind]


@asynccontextmanager
async def bound(host: str = "127.0.0.1") -> AsyncIterator[trio.socket.SocketType]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as udp:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        await udp.bind((host, 0))
        yield udp


@asynccontextmanager
async def driven_by(
    node: PlayedNode,
    *,
    host: str = "127.0.0.1",
    peers: Peers | None = None,
    recording: Recording | None = None,
) -> AsyncIterator[Driven]:
    async with bound(host) as udp, trio.open_nursery() as nursery:
        driven = Driven(node, udp, peers, recording)
        nursery.start_soon(driven.gossip.run)
        yield driven
        nursery.cancel_scope.cancel()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)
