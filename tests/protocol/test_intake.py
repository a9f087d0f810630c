"""The order of the checks on what others bring."""

import pytest

from protocol.authority import record_hash
from protocol.codec import encode_datagram, encode_stream
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.effects import OpenStream, SendDatagram
from protocol.errors import DropReason
from protocol.events import StreamReceived
from protocol.identity import NodeId
from protocol.messages import Gossip, PushPull
from protocol.statements import make_accusation, make_left, make_offer
from tests.helpers.nodes import Insider, Mesh, drops_in, seed_of

GOSSIP = encode_datagram(Gossip())


def _mesh() -> tuple[Mesh, Insider, list[bytes]]:
    """A mesh of two, an insider, and the signatures that node 0 checks from now on."""
    mesh = Mesh(3)
    mesh.start(0)
    mesh.start(1)
    mesh.exchange(0, 1)
    insider = Insider(mesh, 2)
    insider.tell(0, GOSSIP, insider.alive(5).wire)
    checked: list[bytes] = []
    verify = mesh.machines[0].crypto.verify

    def spy(key: bytes, signature: bytes, data: bytes) -> bool:
        checked.append(signature)
        return verify(key, signature, data)

    mesh.machines[0].crypto.verify = spy  # type: ignore[method-assign]  # a spy
    return mesh, insider, checked


def test_what_could_change_nothing_is_not_checked() -> None:
    """Stale statements, strangers, unknown subjects: no signature is looked at."""
    mesh, insider, checked = _mesh()
    mesh_id = mesh.authorities.mesh
    insider.tell(0, GOSSIP, make_offer(insider.crypto, mesh_id, 9, "k", b"v").wire)
    checked.clear()
    stranger = Mesh(1, label="strangers").machines[0].crypto
    insider.tell(
        0,
        GOSSIP,
        insider.alive(4).wire,
        make_left(insider.crypto, mesh_id, 4).wire,
        make_offer(insider.crypto, mesh_id, 8, "k", b"old").wire,
        make_left(stranger, mesh_id, 9).wire,
    )
    insider.tell(
        0,
        GOSSIP,
        make_accusation(insider.crypto, mesh_id, NodeId(bytes(32)), 1, is_dead=True).wire,
        make_accusation(insider.crypto, mesh_id, mesh.id(2), 4, is_dead=True).wire,
        b"junk",
        mesh.authorities.issue(seed_of("x"), issuer_seed=seed_of("y")).wire,
        insider.alive(5).wire,
    )
    assert checked == []


def test_everything_new_is_checked_once() -> None:
    """However often it arrives."""
    _, insider, checked = _mesh()
    wire = insider.alive(6).wire
    for _ in range(5):
        insider.tell(0, GOSSIP, wire)
    assert checked == [wire[-64:]]


def test_a_frame_ends_at_its_first_bad_signature() -> None:
    """One bad signature costs one check, however much hangs on it."""
    mesh, insider, checked = _mesh()
    mesh_id = mesh.authorities.mesh
    forged = [insider.alive(n).wire[:-1] + b"\0" for n in (7, 8, 9)]
    good = make_offer(insider.crypto, mesh_id, 1, "k", b"v").wire
    effects = insider.tell(0, GOSSIP, *forged, good)
    assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
    assert len(checked) == 1
    assert mesh[0].offers.of(mesh.id(2)) == {}


def test_harmless_refusals_do_not_end_a_frame() -> None:
    """What comes after a stranger's or a malformed rider is taken in."""
    mesh, insider, _ = _mesh()
    stranger = Mesh(1, label="strangers").machines[0].crypto
    effects = insider.tell(
        0,
        GOSSIP,
        b"junk",
        make_left(stranger, mesh.authorities.mesh, 1).wire,
        insider.alive(6).wire,
    )
    assert drops_in(effects) == [DropReason.MALFORMED, DropReason.NOT_ADMITTED]
    assert mesh[0].members.incarnation(mesh.id(2)) == 6


def test_a_missing_premise_asks_for_an_introduction() -> None:
    """The sender knows records that we do not: one exchange, at a bounded rate."""
    mesh, insider, _ = _mesh()
    stranger = Mesh(1, label="strangers").machines[0].crypto
    wire = make_left(stranger, mesh.authorities.mesh, 1).wire
    mesh.now += SECOND
    opened = [
        effect.peer
        for _ in range(10)
        for effect in insider.tell(0, GOSSIP, wire)
        if isinstance(effect, OpenStream)
    ]
    assert opened == [mesh.id(2)]


def test_new_records_spread_and_evictions_reach_the_view() -> None:
    """Who loses its slot is no member any more: not in the view, without offers."""
    mesh, insider, _ = _mesh()
    authorities = mesh.authorities
    mesh_id = authorities.mesh
    insider.tell(0, GOSSIP, make_offer(insider.crypto, mesh_id, 1, "k", b"v").wire)
    invite = mesh[0].authority.invite_of(mesh.id(2))
    held = mesh[0].authority.admission(mesh.id(2))
    assert invite is not None
    assert held is not None
    token = seed_of("mesh", "invite", mesh.id(2), held.role, 1)
    rival = _lower(mesh, token)
    effects = insider.tell(0, GOSSIP, rival)
    assert mesh[0].authority.admission(mesh.id(2)) is None
    assert mesh[0].members.state(mesh.id(2)) is None
    assert mesh[0].offers.of(mesh.id(2)) == {}
    assert rival in mesh[0]._rumours.fill(1_000, 9)
    assert not any(isinstance(e, SendDatagram) and e.to == insider.address for e in effects)
    mesh.settle()
    mesh.advance(30 * SECOND)
    assert mesh[1].members.state(mesh.id(2)) is None


def test_what_an_evicted_member_once_said_does_not_count_any_more() -> None:
    """Also not what was checked, and is remembered as such, while it was a member."""
    mesh, insider, checked = _mesh()
    mesh_id = mesh.authorities.mesh
    incarnation = mesh[0].members.incarnation(mesh.id(1))
    said = (
        insider.alive(7).wire,
        make_left(insider.crypto, mesh_id, 8).wire,
        make_offer(insider.crypto, mesh_id, 1, "k", b"v").wire,
        make_accusation(insider.crypto, mesh_id, mesh.id(1), incarnation, is_dead=True).wire,
    )
    insider.tell(0, GOSSIP, *said)
    admission = mesh[0].authority.admission(mesh.id(2))
    assert admission is not None
    token = seed_of("mesh", "invite", mesh.id(2), admission.role, 1)
    insider.tell(0, GOSSIP, _lower(mesh, token))
    checked.clear()
    data = encode_stream(PushPull(True, (), said))
    effects = mesh.give(0, StreamReceived(1, mesh.id(1), data, mesh.wall_s))
    assert drops_in(effects) == [DropReason.NOT_ADMITTED] * 4
    assert checked == []


def _lower(mesh: Mesh, token: bytes) -> bytes:
    """Another admission for the insider's slot, with a lower hash."""
    held = mesh[0].authority.admission(mesh.id(2))
    invite = mesh[0].authority.invite_of(mesh.id(2))
    assert held is not None
    for number in range(1_000):
        crypto = SodiumCrypto(seed_of("rival", number))
        _, rival = mesh.authorities.admit(crypto, invite=invite, key_seed=token)
        if record_hash(rival) < record_hash(held):
            return rival.wire
    raise AssertionError("no lower hash")


@pytest.mark.parametrize("started", [True, False])
def test_riders_count_before_the_message(started: bool) -> None:
    """A ping that brings its sender's life is a ping of a known member."""
    mesh = Mesh(2)
    mesh.boot(0)
    if started:
        mesh.start(0)
    insider = Insider(mesh, 1)
    effects = insider.tell(0, GOSSIP, insider.alive().wire)
    assert mesh[0].members.state(mesh.id(1)) is not None
    assert not any(isinstance(e, OpenStream) for e in effects)
