"""Streams between members: exchanges, the pool, dialing, and what is left behind."""

import gc
import pathlib
import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from meshd import connection as connection_module
from meshd import peers as under_test
from meshd.connection import Connection
from meshd.frames import FrameStream
from meshd.peers import Kind, PeerUnreachable
from protocol.identity import Address, NodeId
from tests.meshd.asked_peers import Echo, ask, run
from tests.meshd.members import Member, until, workers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


# ---- what works ----


def test_members_exchange_and_know_each_other(tmp_path: pathlib.Path) -> None:
    """The server learns the asker's key from TLS alone; connections are used again."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo, Kind.REQUEST: echo}) as address:
            for kind in (Kind.GOSSIP, Kind.REQUEST, Kind.REQUEST):
                assert await ask(anna, bert.id, address, kind=kind) == anna.id[:4] + b"hello"
            assert len(set(map(id, echo.streams))) == 1
            anna.peers.drop_idle(everything=True)
            assert await ask(anna, bert.id, address) is not None
            assert len(set(map(id, echo.streams))) == 2
            anna.peers.drop_idle(everything=True)
        assert not bert.peers.refusals

    run(test)


def test_first_frames_are_there_with_the_opening(tmp_path: pathlib.Path) -> None:
    """On a fresh connection and on a kept one."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.REQUEST: Echo()}) as address:
            for _ in range(2):
                there = anna.peers.exchange(bert.id, [address], Kind.REQUEST, b"at once")
                async with there as frames:
                    assert await frames.receive(1_000) == anna.id[:4] + b"at once"
            anna.peers.drop_idle(everything=True)
        assert not bert.peers.refusals

    run(test)


def test_exchanges_at_the_same_time_have_their_own_connections(tmp_path: pathlib.Path) -> None:
    """And no more than so many are kept when they end."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()
    count = under_test.POOL_PER_PEER + 3

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(ask, anna, bert.id, address)
            assert len(set(map(id, echo.streams))) == count
            assert len(anna.peers._pool[bert.id]) == under_test.POOL_PER_PEER
            anna.peers.drop_idle(everything=True)
            assert not anna.peers._pool

    run(test)


def test_only_so_many_are_kept_for_all_peers_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that speaks with everybody does not keep a connection to everybody."""
    monkeypatch.setattr(under_test, "POOL_MAX", 1)
    roles = workers(0, 1, 2)
    anna, bert, carl = (Member(tmp_path, index, roles) for index in range(3))

    async def test() -> None:
        async with (
            bert.serving({Kind.GOSSIP: Echo()}) as there,
            carl.serving({Kind.GOSSIP: Echo()}) as elsewhere,
        ):
            assert await ask(anna, bert.id, there) is not None
            assert await ask(anna, carl.id, elsewhere) is not None
            assert [len(idle) for idle in anna.peers._pool.values() if idle] == [1]
            assert await ask(anna, bert.id, there) is not None
            anna.peers.drop_idle(everything=True)

    run(test)


def test_idle_connections_end(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After their time they are neither used nor kept."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    echo = Echo()
    monkeypatch.setattr(under_test, "POOL_IDLE_S", 0.0)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            await ask(anna, bert.id, address)
            await ask(anna, bert.id, address)
            assert len(set(map(id, echo.streams))) == 2
            anna.peers.drop_idle()
            assert not anna.peers._pool

    run(test)


def test_a_restarted_peer_costs_no_request(tmp_path: pathlib.Path) -> None:
    """The pooled connection to its former life is replaced, unnoticed."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            await ask(anna, bert.id, address)
        async with bert.serving({Kind.GOSSIP: Echo()}, port=address.port):
            assert await ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            anna.peers.drop_idle(everything=True)

    run(test)


def test_a_pooled_connection_that_breaks_at_the_first_word_is_replaced(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked well, and was not: the request goes over a new one."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            await ask(anna, bert.id, address)
            [pooled] = anna.peers._pool[bert.id]
            pooled.close()
            monkeypatch.setattr(Connection, "is_usable", lambda self: True)
            assert await ask(anna, bert.id, address) == anna.id[:4] + b"hello"
            anna.peers.drop_idle(everything=True)

    run(test)


def test_what_is_left_in_the_tls_layer_answers_no_other_exchange(tmp_path: pathlib.Path) -> None:
    """Two records that come at once: the second is read with the first and waits undecrypted."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    has_sent = trio.Event()

    async def twice(peer: NodeId, frames: FrameStream) -> None:
        nonlocal has_sent
        data = await frames.receive(1_000)
        assert data is not None
        await frames.send(b"answer to " + data)
        await frames.send(b"left over")
        has_sent.set()

    async def test() -> None:
        nonlocal has_sent
        async with bert.serving({Kind.GOSSIP: twice}) as address:
            for word in (b"one", b"two"):
                has_sent = trio.Event()
                async with anna.peers.exchange(bert.id, (address,), Kind.GOSSIP) as frames:
                    await frames.send(word)
                    await has_sent.wait()
                    assert await frames.receive(1_000) == b"answer to " + word
            assert not any(anna.peers._pool.values())

    run(test)


def test_a_tls_layer_that_cannot_be_looked_into_is_not_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another version of trio; requests go on, each with a handshake."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    is_usable = Connection.is_usable

    def without_names(connection: Connection) -> bool:
        tls = connection._tls
        connection._tls = object()  # type: ignore[assignment]  # another version
        try:
            return is_usable(connection)
        finally:
            connection._tls = tls

    monkeypatch.setattr(Connection, "is_usable", without_names)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            for _ in range(2):
                assert await ask(anna, bert.id, address) == anna.id[:4] + b"hello"
                assert not any(anna.peers._pool.values())

    run(test)


def test_a_stream_with_something_unread_is_not_kept(tmp_path: pathlib.Path) -> None:
    """What a peer says after its answer must not be taken for the next one's."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def chatty(peer: NodeId, frames: FrameStream) -> None:
        await frames.receive(100)
        await frames.send(b"answer")
        await frames.send(b"and another thing")

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: chatty}) as address:
            async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP) as frames:
                await frames.send(b"hello")
                assert await frames.receive(100) == b"answer"
                await until(lambda: not _is_silent(frames))
            assert not anna.peers._pool[bert.id]

    def _is_silent(frames: FrameStream) -> bool:
        connections = [c for c in made if c.frames is frames]
        return all(connection.is_usable() for connection in connections)

    made: list[Connection] = []
    dial = anna.peers.dial

    async def remembering(peer: NodeId | None, addresses: list[Address]) -> Connection:
        made.append(await dial(peer, addresses))
        return made[-1]

    anna.peers.dial = remembering  # type: ignore[method-assign,assignment]  # to look at it
    run(test)


# ---- dialing ----


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_failures_of_dialing_have_words(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address with its own reason."""
    roles = workers(0, 1, 2)
    anna, bert, carl = (Member(tmp_path, index, roles) for index in range(3))
    monkeypatch.setattr(connection_module, "HANDSHAKE_S", 1.0)

    async def test() -> None:
        async with bert.serving({}) as address, anna.serving({}) as own:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                hole = Address("127.0.0.1", silent.getsockname()[1])
                nobody = Address("127.0.0.1", _unused_port())
                for where, words in (
                    ([], "no address is known"),
                    ([nobody], rf"{nobody}: connection refused"),
                    ([hole], rf"{hole}: no TLS answer"),
                    ([address], "another node answers there"),
                    ([own], "it is this very node"),
                    ([Address("fe80::1%" + "a" * 100, 1)], "no host can have that name"),
                    ([nobody, hole], "connection refused; .*no TLS answer"),
                ):
                    with pytest.raises(PeerUnreachable, match=words):
                        await anna.peers.dial(carl.id, where)

    run(test)


def test_a_silent_address_does_not_hold_up_the_next(tmp_path: pathlib.Path) -> None:
    """The second is tried a moment later, wins, and the first is given up."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                hole = Address("127.0.0.1", silent.getsockname()[1])
                started = trio.current_time()
                connection = await anna.peers.dial(bert.id, [hole, address])
                assert under_test.STAGGER_S <= trio.current_time() - started < 2.0
                connection.close()

    run(test)


def test_a_refusing_address_costs_no_wait(tmp_path: pathlib.Path) -> None:
    """The next is tried at once."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            refusing = [Address("127.0.0.1", _unused_port()) for _ in range(5)]
            with trio.fail_after(5 * under_test.STAGGER_S):
                (await anna.peers.dial(bert.id, [*refusing, address])).close()

    run(test)


def test_cancelled_in_the_moment_of_success_nothing_is_left(tmp_path: pathlib.Path) -> None:
    """An attempt wins while the caller goes away: its connection is closed."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    made: list[Connection] = []
    dial_one = anna.peers._dial_one

    async def test() -> None:
        with trio.CancelScope() as scope:

            async def winning(peer: NodeId | None, address: Address) -> Connection:
                made.append(await dial_one(peer, address))
                scope.cancel()
                return made[-1]

            anna.peers._dial_one = winning  # type: ignore[method-assign]  # to cancel just then
            async with bert.serving({Kind.GOSSIP: Echo()}) as address:
                await anna.peers.dial(bert.id, [address])
        assert scope.cancelled_caught
        assert [connection.is_usable() for connection in made] == [False]

    run(test)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_cancelled_exchange_leaves_nothing(tmp_path: pathlib.Path, is_pooled: bool) -> None:
    """Whether its connection was new or from the pool, it is closed and not kept."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            if is_pooled:
                await ask(anna, bert.id, address)
            with trio.CancelScope() as scope:
                scope.cancel()
                await ask(anna, bert.id, address)
            assert not anna.peers._pool.get(bert.id)
            with trio.CancelScope() as scope:
                async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP) as frames:
                    scope.cancel()
                    await frames.receive(100)
            assert not anna.peers._pool.get(bert.id)
            await wait_all_tasks_blocked()
            await until(lambda: bert.peers._inbound.count == 0)

    run(test)


def test_a_failed_exchange_is_not_kept(tmp_path: pathlib.Path) -> None:
    """Only one that ended in order is of further use."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            with pytest.raises(LookupError):
                async with anna.peers.exchange(bert.id, [address], Kind.GOSSIP):
                    raise LookupError
            assert not anna.peers._pool

    run(test)


def test_a_connection_without_a_socket_is_not_usable(tmp_path: pathlib.Path) -> None:
    """Asking a closed one is no error."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            connection = await anna.peers.dial(None, [address])
            assert connection.peer == bert.id
            assert connection.is_usable()
            connection.close()
            assert not connection.is_usable()
            connection.close()

    run(test)
