"""Statements and records of kinds that a later version added: skipped, and nobody's fault."""

from protocol.codec import encode_datagram, encode_stream
from protocol.errors import DropReason
from protocol.events import StreamReceived
from protocol.fields import pack
from protocol.intake import ODD_MAX, UNKNOWN_MAX, Taken
from protocol.messages import Gossip, PushPull
from tests.helpers.nodes import Insider, Mesh, drops_in

COUNT = 300
"""More than so many faults would end a frame."""


def _later(insider: Insider, *kinds: int) -> tuple[bytes, ...]:
    """What a later version may state, one of each kind."""
    author = insider.crypto.node_id
    return tuple(pack((kind, author, number)) + bytes(64) for number, kind in enumerate(kinds))


def _mesh() -> tuple[Mesh, Insider]:
    mesh = Mesh(3)
    mesh.start(0)
    insider = Insider(mesh, 2)
    insider.tell(0, encode_datagram(Gossip()), insider.alive(5).wire)
    return mesh, insider


def test_they_do_not_end_a_frame() -> None:
    """However many: what follows is taken in, and nobody is muted."""
    mesh, insider = _mesh()
    assert COUNT > ODD_MAX
    wires = (*_later(insider, *(5, 28, 15, 255) * (COUNT // 4)), insider.alive(6).wire)
    assert mesh[0]._intake.take_all(wires, insider.crypto.node_id, mesh.now) is Taken.WHOLE
    assert mesh[0].members.incarnation(insider.crypto.node_id) == 6
    assert not mesh[0]._intake.is_muted(insider.crypto.node_id, mesh.now)


def test_absurdly_many_end_a_frame() -> None:
    """No later version says so much that is new; the rest of the frame is not read."""
    mesh, insider = _mesh()
    wires = (*_later(insider, *(9,) * UNKNOWN_MAX), insider.alive(6).wire)
    assert mesh[0]._intake.take_all(wires, insider.crypto.node_id, mesh.now) is Taken.BROKEN
    assert mesh[0].members.incarnation(insider.crypto.node_id) == 5


def test_they_do_not_end_an_exchange() -> None:
    """Unknown records do not keep the statements behind them out."""
    mesh, insider = _mesh()
    records, statements = _later(insider, *(28,) * COUNT), _later(insider, *(9,) * COUNT)
    data = encode_stream(PushPull(False, records, (*statements, insider.alive(6).wire)))
    event = StreamReceived(1, insider.crypto.node_id, data, mesh.wall_s)
    effects = mesh[0].handle(event, mesh.now)
    assert drops_in(effects) == [DropReason.UNKNOWN_KIND] * 2  # once for each list
    assert mesh[0].members.incarnation(insider.crypto.node_id) == 6


def test_they_do_not_end_a_datagram_and_are_not_passed_on() -> None:
    """They are reported, with no state changed: nobody here could check them."""
    mesh, insider = _mesh()
    known = mesh[0]._knowledge.everything()
    spread = len(mesh[0]._rumours)
    effects = insider.tell(0, encode_datagram(Gossip()), *_later(insider, 9, 30))
    assert drops_in(effects) == [DropReason.UNKNOWN_KIND]
    assert mesh[0]._knowledge.everything() == known
    assert len(mesh[0]._rumours) == spread
    insider.tell(0, encode_datagram(Gossip()), *_later(insider, 9, 30), insider.alive(6).wire)
    assert mesh[0].members.incarnation(insider.crypto.node_id) == 6
