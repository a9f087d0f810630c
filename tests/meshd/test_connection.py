"""The handshake between nodes: TLS 1.3 and nothing else, and no way around a certificate."""

import contextlib
import gc
import pathlib
import socket
import ssl
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from meshd import connection as under_test
from meshd.peers import Kind, PeerUnreachable
from tests.meshd.asked_peers import OPENING, Echo, ask, run
from tests.meshd.members import Member, until, workers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


def _old(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Only TLS 1.2, with a certificate of this mesh."""
    for context in contexts:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("is_old_server", [True, False])
def test_older_tls_is_refused_by_both_ends(tmp_path: pathlib.Path, is_old_server: bool) -> None:
    """A member's own certificate does not help."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    for context in (anna.peers._dialing, bert.peers._accepting):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    old = bert if is_old_server else anna
    _old((old.peers._dialing, old.peers._accepting))
    echo = Echo()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: echo}) as address:
            with pytest.raises(PeerUnreachable, match="TLS failed"):
                await ask(anna, bert.id, address)
            await until(lambda: bert.peers.refusals == {"handshake": 1})
            assert not echo.streams

    run(test)


def test_who_shows_no_certificate_is_refused(tmp_path: pathlib.Path) -> None:
    """The dialer has to have one, of this mesh."""
    roles = workers(0, 1)
    bert = Member(tmp_path, 1, roles)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            stream = await trio.open_tcp_stream(*address)
            tls = trio.SSLStream(stream, bare, https_compatible=True)
            await tls.do_handshake()  # TLS 1.3: the dialer is done before the server has judged
            assert await tls.receive_some(1) == b""
            await trio.aclose_forcefully(tls)
            await until(lambda: bert.peers.refusals == {"handshake": 1})

    run(test)


def test_no_session_is_resumed(tmp_path: pathlib.Path) -> None:
    """A ticket would let whoever holds it in without a certificate; none is given, and a session
    that is offered all the same is not taken.
    """
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    def exchange(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as tcp,
            anna.peers._dialing.wrap_socket(tcp, session=session) as tls,
        ):
            for frame in (OPENING, b"hello"):
                tls.sendall(len(frame).to_bytes(4, "big") + frame)
            assert tls.recv(100).endswith(b"hello")
            return tls.session, bool(tls.session_reused)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            session, _ = await trio.to_thread.run_sync(exchange, address.port, None)
            assert session is not None
            assert not session.has_ticket
            _, is_reused = await trio.to_thread.run_sync(exchange, address.port, session)
            assert not is_reused

    run(test)


def test_for_who_says_nothing_nothing_is_built(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of silent connections cost no TLS objects; the first byte costs one."""
    bert = Member(tmp_path, 1, {})
    built: list[trio.SocketStream] = []
    original = trio.SSLStream

    def building(
        stream: trio.SocketStream, context: ssl.SSLContext, **more: bool
    ) -> trio.SSLStream[trio.SocketStream]:
        built.append(stream)
        return original(stream, context, server_side=more["server_side"], https_compatible=True)

    monkeypatch.setattr(trio, "SSLStream", building)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            silent = [await trio.open_tcp_stream(*address) for _ in range(5)]
            await until(lambda: bert.peers._inbound.guests == 5)
            await trio.testing.wait_all_tasks_blocked()
            assert not built
            await silent[0].send_all(b"\x16")
            await until(lambda: len(built) == 1)
            for stream in silent:
                await stream.aclose()

    run(test)


def test_a_handshake_that_drips_ends_in_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte now and then does not lengthen it."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(under_test, "HANDSHAKE_S", 0.3)

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as address:
            stream = await trio.open_tcp_stream(*address)
            sent = 0
            with contextlib.suppress(trio.BrokenResourceError):
                for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
                    await stream.send_all(bytes((byte,)))
                    sent += 1
                    await trio.sleep(0.02)
            assert sent < 100
            await stream.aclose()
            assert bert.peers.refusals == {"handshake": 1}
            assert await ask(anna, bert.id, address) is not None
            anna.peers.drop_idle(everything=True)

    run(test)
