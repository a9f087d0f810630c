"""The local network: what is announced, what is believed, and that nothing there can end it.

On the loopback interface only.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import zeroconf

from meshd import discovery
from meshd.discovery import SERVICE, Sighting, announce_and_browse
from protocol.identity import Address, MeshId, NodeId, key_text
from tests.meshd.members import until

MESH, NODE = MeshId(b"m" * 16), NodeId(b"n" * 32)
GOOD: dict[bytes, bytes | None] = {
    b"mesh": key_text(MESH).encode(),
    b"node": key_text(NODE).encode(),
    b"name": b"anna",
}


class FakeZeroconf:
    """Knows one announcement."""

    def __init__(
        self,
        properties: dict[bytes, bytes | None] | None = None,
        *,
        port: int = 7700,
        addresses: tuple[str, ...] = ("192.168.1.5", "fd00::5"),
        failure: Exception | None = None,
    ) -> None:
        self.info = SimpleNamespace(
            port=port,
            properties=GOOD if properties is None else properties,
            parsed_addresses=lambda: list(addresses),
        )
        self.failure = failure

    def get_service_info(self, *arguments: object) -> object:
        if self.failure is not None:
            raise self.failure
        return self.info


def _look_up(fake: FakeZeroconf) -> Sighting | None:
    return discovery._look_up(cast("zeroconf.Zeroconf", fake), f"x.{SERVICE}")


def test_a_good_announcement_is_a_sighting() -> None:
    """Mesh, node, name, and all addresses with the port."""
    sighting = _look_up(FakeZeroconf())
    assert sighting is not None
    assert (sighting.mesh, sighting.node, sighting.name) == (MESH, NODE, "anna")
    assert sighting.addresses == [Address("192.168.1.5", 7700), Address("fd00::5", 7700)]


@pytest.mark.parametrize(
    "fake",
    [
        FakeZeroconf(port=0),
        FakeZeroconf(addresses=()),
        FakeZeroconf({}),
        FakeZeroconf({**GOOD, b"mesh": None}),
        FakeZeroconf({**GOOD, b"mesh": b"short"}),
        FakeZeroconf({**GOOD, b"node": GOOD[b"mesh"]}),
        FakeZeroconf({**GOOD, b"node": b"\xff\xfe"}),
        FakeZeroconf({**GOOD, b"node": b"!" * 52}),
        FakeZeroconf({**GOOD, b"name": b"red \x1b[31m"}),
        FakeZeroconf({**GOOD, b"name": b"Anna Smith"}),
        FakeZeroconf({**GOOD, b"name": b""}),
        FakeZeroconf({**GOOD, b"name": b"\xc3\xa9"}),
        FakeZeroconf(failure=zeroconf.BadTypeInNameException("control characters")),
    ],
)
def test_an_announcement_that_makes_no_sense_is_nothing(fake: FakeZeroconf) -> None:
    """Anybody on the network can announce anything."""
    assert _look_up(fake) is None


def test_an_announcement_that_vanished_is_nothing() -> None:
    """Between its name and its details."""
    fake = FakeZeroconf()
    fake.info = cast("Any", None)
    assert _look_up(fake) is None


def test_what_is_announced_is_what_others_read() -> None:
    """Names without an address are left out: mDNS carries literals."""
    addresses = [Address("192.168.1.5", 7700), Address("h.example", 7700), Address("fd00::5", 1)]
    info = discovery._service_info(MESH, NODE, "anna", addresses)
    assert info.port == 7700
    assert info.parsed_addresses() == ["192.168.1.5", "fd00::5"]
    assert info.name == f"{key_text(NODE)[:16]}.{SERVICE}"
    assert info.decoded_properties == {
        "mesh": key_text(MESH),
        "node": key_text(NODE),
        "name": "anna",
    }


def _announce(
    node: NodeId, mesh: MeshId, on_sighting: Callable[[Sighting], None]
) -> Callable[[], Any]:
    async def run() -> None:
        await announce_and_browse(
            mesh=mesh,
            node=node,
            name=f"node-{node[0]}",
            addresses=[Address("127.0.0.1", 1_000 + node[0])],
            on_sighting=on_sighting,
            interfaces=["127.0.0.1"],
        )

    return run


def _has_multicast() -> bool:
    try:
        zeroconf.Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError:
        return False
    return True


def test_two_nodes_on_one_machine_see_each_other_and_not_themselves() -> None:
    """Whatever their meshes are: the caller decides what a stranger means."""
    if not _has_multicast():
        pytest.skip("needs multicast on loopback")
    one, other = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)
    seen: dict[NodeId, dict[NodeId, Sighting]] = {one: {}, other: {}}

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for node, mesh in ((one, MESH), (other, MeshId(b"x" * 16))):

                    def note(sighting: Sighting, node: NodeId = node) -> None:
                        seen[node][sighting.node] = sighting

                    nursery.start_soon(_announce(node, mesh, note))
                await until(lambda: other in seen[one] and one in seen[other])
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert one not in seen[one]
    assert other not in seen[other]
    sighting = seen[one][other]
    assert (sighting.mesh, sighting.name) == (b"x" * 16, "node-2")
    assert sighting.addresses == [Address("127.0.0.1", 1_002)]


def test_a_machine_without_multicast_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and the task ends."""

    def fail(interfaces: object) -> zeroconf.Zeroconf:
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "_open", fail)

    async def main() -> None:
        with trio.fail_after(5):
            await _announce(NODE, MESH, lambda sighting: None)()

    trio.run(main)


@pytest.mark.parametrize("failure", [OSError(1, "no"), zeroconf.NonUniqueNameException()])
def test_a_failed_announcement_is_no_error(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """And what was opened is closed."""
    closed: list[bool] = []

    def register(info: object, allow_name_change: bool) -> None:
        raise failure

    fake = SimpleNamespace(register_service=register, close=lambda: closed.append(True))
    monkeypatch.setattr(discovery, "_open", lambda interfaces: fake)

    async def main() -> None:
        with trio.fail_after(5):
            await _announce(NODE, MESH, lambda sighting: None)()

    trio.run(main)
    assert closed == [True]


def test_a_flood_of_announcements_loses_hints_and_nothing_else() -> None:
    """The queue is bounded, and its end is no error of the thread that fills it."""

    async def main() -> None:
        give, found = trio.open_memory_channel[str](2)
        for number in range(5):
            discovery._offer(give, str(number))
        assert [found.receive_nowait() for _ in range(2)] == ["0", "1"]
        await found.aclose()
        discovery._offer(give, "late")

    trio.run(main)
