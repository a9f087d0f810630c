"""Binding: one number for UDP and TCP, the port of last time, and errors that say the mend."""

import pathlib
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import trio

from meshd import sockets as under_test
from meshd.failures import UserError
from meshd.gateway_options import GatewayOptions
from meshd.home import Home
from meshd.sockets import bind_gateway, bind_node, bind_pairing


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Bound(NamedTuple):
    """What was seen of bound sockets."""

    host: str
    port: int
    tcp_port: int
    is_wildcard: bool
    is_dual: bool
    is_loopback: bool


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="needs IPv6 on loopback")


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def _bind(home: Home, host: str, port: int = 0) -> Bound:
    """Bind, look, and close again."""

    async def main() -> Bound:
        sockets = await bind_node(home, host, port)
        try:
            return Bound(
                sockets.host,
                sockets.port,
                int(sockets.tcp.socket.getsockname()[1]),
                sockets.is_wildcard,
                sockets.is_dual,
                sockets.is_loopback,
            )
        finally:
            sockets.close()

    return trio.run(main)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_udp_and_tcp_share_one_number(home: Home, host: str) -> None:
    """Members know one address for datagrams and streams."""
    sockets = _bind(home, host)
    assert 0 < sockets.port == sockets.tcp_port
    assert sockets.is_wildcard is (host == "0.0.0.0")
    assert sockets.is_loopback is (host != "0.0.0.0")


@needs_ipv6
def test_the_default_takes_both_families(home: Home) -> None:
    """On `::`, an IPv4 datagram arrives and its answer goes back."""

    async def main() -> None:
        sockets = await bind_node(home, "::", 0)
        assert (sockets.is_wildcard, sockets.is_dual, sockets.is_loopback) == (True, True, False)
        with trio.fail_after(5), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", ("127.0.0.1", sockets.port))
            data, source = await sockets.udp.recvfrom(100)
            assert (data, source[0]) == (b"hello", "::ffff:127.0.0.1")
            stream = await trio.open_tcp_stream("127.0.0.1", sockets.port)
            await stream.aclose()
        sockets.close()

    trio.run(main)


@needs_ipv6
def test_one_ipv6_address_is_only_that(home: Home) -> None:
    """`::1` is loopback, and not dual."""
    sockets = _bind(home, "::1")
    assert (sockets.is_wildcard, sockets.is_dual, sockets.is_loopback) == (False, False, True)


def test_without_ipv6_the_default_is_ipv4(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with IPv6 switched off runs a node all the same."""
    monkeypatch.setattr(under_test, "_has_ipv6", lambda: False)
    sockets = _bind(home, "::")
    assert sockets.host == "0.0.0.0"
    assert not sockets.is_dual


def test_port_0_takes_the_port_of_last_time(home: Home) -> None:
    """So that members find each other again after all of them were off."""
    port = _bind(home, "127.0.0.1").port
    assert home.last_port.read_text() == str(port)
    assert _bind(home, "127.0.0.1").port == port


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_of_last_time_is_replaced(home: Home, kind: socket.SocketKind) -> None:
    """Taken for TCP or for UDP alone: both move to another one, which is kept."""
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            other.listen()
        taken = other.getsockname()[1]
        home.write(home.last_port, str(taken).encode())
        sockets = _bind(home, "127.0.0.1")
    assert sockets.port != taken
    assert home.last_port.read_text() == str(sockets.port)


@pytest.mark.parametrize("content", [b"", b"x", b"-5", b"70000", b"\xff", b"9" * 5_000])
def test_a_damaged_port_file_does_not_matter(home: Home, content: bytes) -> None:
    """Any free port is as good."""
    home.last_port.write_bytes(content)
    sockets = _bind(home, "127.0.0.1")
    assert sockets.port > 0


def test_a_chosen_port_is_not_remembered(home: Home) -> None:
    """The file is for port 0 only."""
    port = _bind(home, "127.0.0.1").port
    home.last_port.unlink()
    assert _bind(home, "127.0.0.1", port).port == port
    assert not home.last_port.exists()


def test_a_port_in_use_is_said(home: Home) -> None:
    """With the option that mends it; and nothing stays bound."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} is in use.*--listen"):
            _bind(home, "127.0.0.1", port)
        with pytest.raises(UserError, match=r"is in use.*--gateway"):
            bind_gateway("127.0.0.1", port)


@pytest.mark.parametrize("port", [0, 7700])
def test_an_address_of_another_machine_is_said(home: Home, port: int) -> None:
    """Also with port 0: it is not for want of free ports."""
    with pytest.raises(UserError, match=r"192\.0\.2\.1:.* is no address of this machine.*--listen"):
        _bind(home, "192.0.2.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
def test_a_name_of_no_machine_is_said(home: Home, host: str) -> None:
    """Whether the resolver does not know it or cannot even ask; each with its own option."""
    with pytest.raises(UserError, match="is no address of this machine; mend --listen"):
        _bind(home, host)
    with pytest.raises(UserError, match="is no address of this machine; mend --gateway"):
        bind_gateway(host, 0)


def _refusing(code: int) -> Callable[..., None]:
    def bind(self: socket.socket, address: object) -> None:
        raise OSError(code, "said the system")

    return bind


def _with_class(sockets: type[socket.socket]) -> SimpleNamespace:
    """The module `socket` with another class of sockets."""
    return SimpleNamespace(**{**vars(socket), "socket": sockets})


@pytest.mark.parametrize(
    ("code", "words"),
    [(13, "needs privileges; choose a port above 1023"), (99, "no address"), (5, "cannot listen")],
)
def test_other_refusals_have_their_own_words(
    home: Home, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    """And leave no socket behind (an unclosed one would warn)."""

    class Refusing(socket.socket):
        bind = _refusing(code)

    monkeypatch.setattr(under_test, "socket", _with_class(Refusing))
    with pytest.raises(UserError, match=words):
        _bind(home, "127.0.0.1", 80)
    with pytest.raises(UserError, match=words):
        bind_gateway("127.0.0.1", 80)


def test_no_free_port_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many tries, with what to do."""

    class Full(socket.socket):
        bind = _refusing(98)

    monkeypatch.setattr(under_test, "socket", _with_class(Full))
    with pytest.raises(UserError, match=r"no free port on 127\.0\.0\.1; choose one"):
        _bind(home, "127.0.0.1")


def test_the_gateway_is_on_loopback_unless_it_has_keys_and_a_word_about_tls() -> None:
    """Nothing is bound before that is known."""
    sock = bind_gateway("127.0.0.1", 0)
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(UserError, match="other machines can reach"):
            bind_gateway(host, 0)
    plain = GatewayOptions(insecure_http=True)
    sock = bind_gateway("0.0.0.0", 0, plain, has_keys=True)
    assert sock.getsockname()[0] == "0.0.0.0"
    sock.close()


@needs_ipv6
def test_a_gateway_on_all_addresses_takes_both_families() -> None:
    """On `::`, as nodes do."""
    sock = bind_gateway("::", 0, GatewayOptions(insecure_http=True), has_keys=True)
    with sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1])) as client:
        assert client.getpeername()[0] == "127.0.0.1"


def test_pairing_takes_its_port_or_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless one was chosen: then it is that one or a line that says why not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(under_test, "PAIRING_PORT", port)
        with bind_pairing("127.0.0.1", None) as other:
            assert other.getsockname()[1] not in (0, port)
        with pytest.raises(UserError, match=f"{port} is in use.*--port"):
            bind_pairing("127.0.0.1", port)
    with bind_pairing("127.0.0.1", None) as own:
        assert own.getsockname()[1] == port


@pytest.mark.skipif(not under_test._has_ipv6(), reason="needs IPv6")
def test_pairing_is_reached_as_the_node_is() -> None:
    """By both families where the node has bound both."""
    with bind_pairing("::", 0) as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()
