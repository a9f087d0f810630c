"""The one place where tests of `meshd.peers` ask, and a handler that answers."""

from collections.abc import Awaitable, Callable

import trio

from meshd.frames import FrameStream, StreamBroken
from meshd.peers import STREAM_VERSION, Kind
from protocol.fields import pack
from protocol.identity import Address, NodeId
from tests.meshd.members import TIMEOUT_S, Member

Test = Callable[[], Awaitable[None]]
OPENING = pack((STREAM_VERSION, Kind.GOSSIP))


def run(test: Test) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)


class Echo:
    """A handler that answers one frame with who asked and what."""

    def __init__(self) -> None:
        self.streams: list[FrameStream] = []

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        self.streams.append(frames)
        data = await frames.receive(1_000)
        if data is None:
            raise StreamBroken("closed")
        await frames.send(peer[:4] + data)


async def ask(
    member: Member, peer: NodeId, *addresses: Address, kind: Kind = Kind.GOSSIP
) -> bytes | None:
    async with member.peers.exchange(peer, addresses, kind) as frames:
        await frames.send(b"hello")
        return await frames.receive(1_000)


async def is_turned_away(
    member: Member, peer: NodeId, address: Address, kind: Kind = Kind.GOSSIP
) -> bool:
    """Whether the exchange ends without an answer."""
    try:
        return await ask(member, peer, address, kind=kind) is None
    except StreamBroken:
        return True
