"""Under which addresses others are told to reach this node."""

import pathlib
import socket
from types import SimpleNamespace

import psutil
import pytest
import trio

from meshd import addresses, sockets
from meshd.addresses import advertised, own_addresses
from meshd.failures import UserError
from meshd.home import Home
from meshd.sockets import bind_node
from protocol.identity import Address, is_valid_address
from protocol.statements import ADDRESSES_MAX


def _stated(
    folder: pathlib.Path,
    host: str,
    advertise: str | None = None,
    before: tuple[Address, ...] = (),
) -> tuple[Address, ...]:
    """What a node says that is bound to `host`; port 7700 stands for whatever it got."""

    async def main() -> tuple[Address, ...]:
        home = Home(folder)
        home.create()
        sockets = await bind_node(home, host, 0)
        try:
            found = advertised(sockets, advertise, before)
            return tuple(
                Address(host, 7700 if port == sockets.port else port) for host, port in found
            )
        finally:
            sockets.close()

    return trio.run(main)


def _interfaces(monkeypatch: pytest.MonkeyPatch, hosts: dict[str, list[str]], *down: str) -> None:
    """Pretend that the machine has these, and no route to the internet."""
    entries = {
        name: [
            SimpleNamespace(family=socket.AF_INET6 if ":" in host else socket.AF_INET, address=host)
            for host in some
        ]
        for name, some in hosts.items()
    }
    stats = {name: SimpleNamespace(isup=name not in down) for name in hosts}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)

    def unrouted(*arguments: object) -> socket.socket:
        raise OSError(101, "Network is unreachable")

    patched = SimpleNamespace(**{**vars(socket), "socket": unrouted})
    monkeypatch.setattr(addresses, "socket", patched)


def test_what_the_person_said_is_stated(tmp_path: pathlib.Path) -> None:
    """And nothing else, whatever is bound."""
    for text, stated in (
        ("mesh.example.org:7700", Address("mesh.example.org", 7700)),
        ("[2001:db8::1]:1", Address("2001:db8::1", 1)),
    ):
        assert _stated(tmp_path, "127.0.0.1", text) == (stated,)


@pytest.mark.parametrize(
    "text", ["my_host:7700", "0.0.0.0:7700", "[::]:7700", "224.0.0.1:1", "h:0", "[fe80::1%x]:1"]
)
def test_what_no_member_would_take_is_one_clear_line(tmp_path: pathlib.Path, text: str) -> None:
    """Members would refuse the whole statement, so it is said before it is made."""
    with pytest.raises(UserError, match=r"--advertise .*others can reach"):
        _stated(tmp_path, "127.0.0.1", text)


def test_a_bound_address_is_stated_as_it_is(tmp_path: pathlib.Path) -> None:
    """Also loopback: a mesh on one machine is one."""
    assert _stated(tmp_path, "127.0.0.1") == (Address("127.0.0.1", 7700),)


def test_all_addresses_are_the_interfaces_ones(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both families on a dual socket, without loopback, link-local and what is down."""
    if not sockets._has_ipv6():
        pytest.skip("needs IPv6")
    _interfaces(
        monkeypatch,
        {
            "lo": ["127.0.0.1", "::1"],
            "eth0": ["192.168.1.5", "fe80::5%eth0", "fd00::5"],
            "wlan0": ["192.168.2.5"],
            "docker0": ["172.17.0.1"],
        },
        "wlan0",
    )
    hosts = [address.host for address in _stated(tmp_path, "::")]
    assert hosts == ["192.168.1.5", "fd00::5", "172.17.0.1"]


def test_an_ipv4_socket_states_no_ipv6(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could reach it there."""
    _interfaces(monkeypatch, {"eth0": ["fd00::5", "192.168.1.5"]})
    assert _stated(tmp_path, "0.0.0.0") == (Address("192.168.1.5", 7700),)


def test_no_more_than_a_statement_holds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with fifty interfaces states the first few."""
    _interfaces(monkeypatch, {"eth0": [f"10.0.0.{number}" for number in range(1, 50)]})
    assert len(_stated(tmp_path, "0.0.0.0")) == ADDRESSES_MAX


def test_a_machine_without_a_network_still_has_itself(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes on one laptop in a plane are a mesh."""
    _interfaces(monkeypatch, {"lo": ["127.0.0.1"]})
    assert _stated(tmp_path, "0.0.0.0") == (Address("127.0.0.1", 7700),)


def test_a_pulled_cable_is_no_new_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stated before stays stated: others would look for us at their own loopback."""
    before = (Address("192.168.1.5", 7700),)
    _interfaces(monkeypatch, {"lo": ["127.0.0.1"]})
    assert _stated(tmp_path, "0.0.0.0", before=before) == before
    _interfaces(monkeypatch, {"eth0": ["192.168.1.6"]})
    assert _stated(tmp_path, "0.0.0.0", before=before) == (Address("192.168.1.6", 7700),)


def test_this_machines_addresses_can_all_be_stated() -> None:
    """Whatever machine this is."""
    found = own_addresses()
    assert len(set(found)) == len(found)
    assert all(is_valid_address(host, 7700) for host in found)
