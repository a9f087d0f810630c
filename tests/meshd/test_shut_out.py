"""A node whose membership has ended is out at once: idle, in use, both ways, and being dialed."""

import gc
import pathlib
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd.connection import Connection
from meshd.frames import FrameStream, StreamBroken
from meshd.peers import Kind, PeerUnreachable
from protocol.identity import Address, NodeId
from protocol.records import Role
from tests.meshd.asked_peers import OPENING, Echo, ask, is_turned_away, run
from tests.meshd.members import Member, until, workers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


class Waiting:
    """A handler that waits for its peer's next word, and notes how that ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ends: list[str] = []

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        self.begun += 1
        try:
            await frames.send(b"begun")
            await frames.receive(100)
            self.ends.append("over")
        except StreamBroken:
            self.ends.append("broken")
            raise


def test_idle_connections_are_closed(tmp_path: pathlib.Path) -> None:
    """Those to the node and those from it; its members' keep theirs."""
    roles = workers(0, 1, 2)
    anna, bert, carl = (Member(tmp_path, index, roles) for index in range(3))

    async def test() -> None:
        async with (
            bert.serving({Kind.GOSSIP: Echo()}) as there,
            anna.serving({Kind.GOSSIP: Echo()}) as here,
        ):
            assert await ask(anna, bert.id, there) is not None
            assert await ask(bert, anna.id, here) is not None
            assert await ask(carl, anna.id, here) is not None
            assert anna.peers._inbound.count == 2
            anna.peers.shut_out(bert.id)
            assert not anna.peers._pool
            await until(lambda: anna.peers._inbound.count == 1)
            await until(lambda: bert.peers._inbound.count == 0)
            [pooled] = bert.peers._pool[anna.id]
            assert not pooled.is_usable()
            [kept] = carl.peers._pool[anna.id]
            assert kept.is_usable()
            for member in (bert, carl):
                member.peers.drop_idle(everything=True)

    run(test)


def test_exchanges_with_it_break_at_both_ends(tmp_path: pathlib.Path) -> None:
    """Those that it asked for, and those that it was asked for; at once, not after a time-out."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    at_anna, at_bert = Waiting(), Waiting()
    ends: list[str] = []

    async def asking(member: Member, peer: NodeId, address: Address) -> None:
        try:
            async with member.peers.exchange(peer, [address], Kind.REQUEST) as frames:
                assert await frames.receive(100) == b"begun"
                if await frames.receive(100) is None:
                    raise StreamBroken("closed")
        except StreamBroken:
            ends.append("broken")

    async def test() -> None:
        async with (
            bert.serving({Kind.REQUEST: at_bert}) as there,
            anna.serving({Kind.REQUEST: at_anna}) as here,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(asking, anna, bert.id, there)
            nursery.start_soon(asking, bert, anna.id, here)
            await until(lambda: at_anna.begun == at_bert.begun == 1)
            await wait_all_tasks_blocked()
            anna.peers.shut_out(bert.id)
            await until(lambda: len(ends) == 2)
            await until(lambda: at_anna.ends == ["broken"])
            await until(lambda: len(at_bert.ends) == 1)
            assert ends == ["broken"] * 2
            assert not anna.peers._pool
            assert not anna.peers._calls

    run(test)


def test_what_has_arrived_of_its_answer_counts_no_more(tmp_path: pathlib.Path) -> None:
    """Two frames came in one piece; the second is not given out after the node was shut out."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def talkative(peer: NodeId, frames: FrameStream) -> None:
        await frames._stream.send_all(b"\0\0\0\3one" + b"\0\0\0\3two")
        await frames.receive(100)

    async def test() -> None:
        async with bert.serving({Kind.REQUEST: talkative}) as address:
            async with anna.peers.exchange(bert.id, [address], Kind.REQUEST) as frames:
                assert await frames.receive(100) == b"one"
                assert not frames.is_quiet
                anna.peers.shut_out(bert.id)
                with pytest.raises(StreamBroken):
                    await frames.receive(100)
            assert not anna.peers._pool.get(bert.id)

    run(test)


def test_a_node_that_is_being_dialed_gets_no_request(tmp_path: pathlib.Path) -> None:
    """Shut out between the handshake and the first word: the word is never said."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    waiting = Waiting()
    dial = anna.peers.dial

    async def dialing(peer: NodeId | None, addresses: list[Address]) -> Connection:
        connection = await dial(peer, addresses)
        anna.peers.shut_out(bert.id)
        return connection

    anna.peers.dial = dialing  # type: ignore[method-assign,assignment]  # to come just then

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: waiting}) as address:
            with pytest.raises(PeerUnreachable, match="its membership has ended"):
                await ask(anna, bert.id, address)
            await until(lambda: bert.peers._inbound.count == 0)
            assert waiting.begun == 0

    run(test)


def test_a_connection_of_a_key_that_was_never_admitted_is_closed_too(
    tmp_path: pathlib.Path,
) -> None:
    """It may have come before its records did."""
    anna, bert = Member(tmp_path, 0, {}), Member(tmp_path, 1, {})

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            assert await ask(anna, bert.id, address) is not None
            assert bert.peers._inbound.guests == 1
            bert.peers.shut_out(anna.id)
            await until(lambda: bert.peers._inbound.count == 0)
            anna.peers.drop_idle(everything=True)

    run(test)


def test_a_member_that_is_none_any_more_is_not_asked(tmp_path: pathlib.Path) -> None:
    """Over no connection, new or kept; and one that may not serve is not asked either."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, workers(0, 1))
    echo = Echo()

    async def test() -> None:
        async with bert.serving(dict.fromkeys(Kind, echo)) as address:
            assert await ask(anna, bert.id, address, kind=Kind.REQUEST) is not None
            for role, words in ((None, "it is no member"), (Role.CLIENT, "not to serve")):
                if role is None:
                    del roles[bert.id]
                else:
                    roles[bert.id] = role
                for kind in (Kind.REQUEST, Kind.TASK):
                    with pytest.raises(PeerUnreachable, match=words):
                        await ask(anna, bert.id, address, kind=kind)
            assert len(echo.streams) == 1
            anna.peers.drop_idle(everything=True)

    run(test)


def test_a_kept_connection_does_not_outlive_its_membership(tmp_path: pathlib.Path) -> None:
    """The role is looked up before each exchange: the next one ends the connection."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, workers(0, 1)), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(bert.id, [address])
            await connection.frames.send(OPENING)
            await connection.frames.send(b"hello")
            assert await connection.frames.receive(100) is not None
            del roles[anna.id]
            await connection.frames.send(OPENING)
            assert await connection.frames.receive(100) is None
            connection.close()
            assert bert.peers.refusals == {"not_admitted": 1}
            assert not await is_turned_away(anna, bert.id, address), "a newcomer may gossip"
            anna.peers.drop_idle(everything=True)

    run(test)
