"""Offers on the local network: what is announced, what is believed of it. On loopback only."""

from types import SimpleNamespace
from typing import cast

import pytest
import trio
import zeroconf

from meshd import discovery, pairing_lan
from meshd.discovery import LanUnavailable
from meshd.pairing_lan import ADDRESSES_MAX, SERVICE, announce, offers
from protocol.identity import Address, NodeId, key_text

NODE = NodeId(b"n" * 32)
HERE = [Address("192.168.1.5", 7702), Address("fd00::5", 7702)]


def _look_up(
    code: bytes | None = b"47",
    *,
    port: int = 7702,
    addresses: tuple[str, ...] = ("192.168.1.5", "fd00::5"),
    failure: Exception | None = None,
    is_gone: bool = False,
) -> list[Address]:
    """What is made of one announcement by who looks for nameplate 47."""

    def get_service_info(*arguments: object) -> object:
        if failure is not None:
            raise failure
        if is_gone:
            return None
        return SimpleNamespace(
            port=port, properties={b"code": code}, parsed_addresses=lambda: list(addresses)
        )

    fake = SimpleNamespace(get_service_info=get_service_info)
    return pairing_lan._look_up(cast("zeroconf.Zeroconf", fake), f"x.{SERVICE}", "47")


def test_an_offer_of_the_nameplate_is_found() -> None:
    """All its addresses, within a limit."""
    assert _look_up() == HERE
    many = tuple(f"10.0.0.{number}" for number in range(50))
    assert len(_look_up(addresses=many)) == ADDRESSES_MAX


def test_anything_else_is_nothing() -> None:
    """Another's offer, one that vanished, and nonsense: anybody can announce anything."""
    assert _look_up(b"48") == _look_up(None) == _look_up(b"\xff") == []
    assert _look_up(port=0) == _look_up(addresses=()) == _look_up(is_gone=True) == []
    assert _look_up(failure=zeroconf.BadTypeInNameException("control characters")) == []


def test_what_is_announced_holds_no_secret() -> None:
    """The nameplate and where to go; the instance's name tells two nodes apart."""
    info = pairing_lan._service_info("47", NODE, [*HERE, Address("h.example", 7702)])
    assert info.name == f"47-{key_text(NODE)[:16]}.{SERVICE}"
    assert info.decoded_properties == {"code": "47"}
    assert (info.port, info.parsed_addresses()) == (7702, ["192.168.1.5", "fd00::5"])


def test_a_machine_without_multicast_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """To who offers in the log, for the offer goes on; to who looks as a failure."""

    def fail(interfaces: object) -> zeroconf.Zeroconf:
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "_open", fail)

    async def main() -> None:
        with trio.fail_after(5):
            await announce("47", NODE, HERE, None)
            with pytest.raises(LanUnavailable, match="No such device"):
                await anext(offers("47"))

    trio.run(main)
