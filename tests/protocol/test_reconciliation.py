"""Different knowledge is noticed and evened out, cheaply, and whatever the other side sends."""

import dataclasses
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import comparison, reconciliation
from protocol.codec import BUCKETS, STREAM_BYTES_MAX, decode_stream, encode_datagram, encode_stream
from protocol.config import SECOND, ProtocolConfig
from protocol.deadlines import NEVER
from protocol.digest import PRESENT
from protocol.effects import AnswerStream, Effect, OpenStream
from protocol.errors import DropReason
from protocol.events import (
    AddressFound,
    LeaveRequested,
    OfferChanged,
    Resumed,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import NodeId, short_id
from protocol.members import Gone, State
from protocol.messages import Difference, Digest, Entry, Gossip, PushPull, StreamMessage
from protocol.node import Node
from protocol.reconciliation import (
    EXCHANGE_NS,
    PAUSE_MIN_NS,
    QUIET_NS,
    RESTLESS_NS,
)
from protocol.snapshot import Snapshot
from protocol.statements import make_alive, make_left, make_offer
from tests.helpers.nodes import Insider, Mesh, address_of, drops_in, seed_of, tampered

GOSSIP = encode_datagram(Gossip())
NEVER_PERIODIC = ProtocolConfig(push_pull_interval_ns=10**6 * SECOND)
"""So that only digests begin exchanges."""
ALL = 2**BUCKETS - 1


def _given(mesh: Mesh, to: int, peer: NodeId, message: StreamMessage) -> list[Effect]:
    data = encode_stream(message)
    return mesh[to].handle(StreamReceived(1, peer, data, mesh.wall_s), mesh.now)


def _answers(effects: list[Effect]) -> list[StreamMessage]:
    return [decode_stream(e.data) for e in effects if isinstance(e, AnswerStream)]


def _opened(mesh: Mesh, index: int) -> list[OpenStream]:
    """The streams that a machine has opened since its log was cleared."""
    return [e for e in mesh.machines[index].log if isinstance(e, OpenStream)]


def _exchange(mesh: Mesh, asker: int, answerer: int) -> None:
    """One exchange of differences."""
    mesh.now += SECOND
    assert mesh[asker]._reconciler.begin(mesh.id(answerer), mesh.now)
    for effect in mesh[asker]._outbox.drain():
        mesh._carry_out(mesh.machines[asker], effect)
    mesh.settle()


def _tell(mesh: Mesh, index: int, peer: int, digest: int) -> list[Effect]:
    """A member's digest comes; returns what the node does at once."""
    mesh[index]._reconciler.on_digest(mesh.id(peer), digest, mesh.now)
    return mesh[index]._outbox.drain()


# ---- convergence ----

CAST = 7
"""Members that are only spoken of."""

stories = st.lists(
    st.tuples(
        st.sampled_from(("life", "goodbye", "offer", "removal")),
        st.integers(2, CAST + 1),
        st.integers(1, 3),
        st.sampled_from((1, 2, 3)),
    ),
    max_size=30,
)


def _hear(mesh: Mesh, story: list[tuple[str, int, int, int]], deaths: list[int]) -> None:
    """Nodes 0 (1), 1 (2) or both (3) hear of each thing; then 0 gives some up for dead."""
    mesh_id = mesh.authorities.mesh
    for what, index, number, who in story:
        crypto = mesh.machines[index].crypto
        match what:
            case "life":
                wire = make_alive(crypto, mesh_id, number, "m", (address_of(index),), "").wire
            case "goodbye":
                wire = make_left(crypto, mesh_id, number).wire
            case _:
                value = b"" if what == "removal" else b"v"
                wire = make_offer(crypto, mesh_id, number, "k", value).wire
        for viewer in (0, 1):
            if who >> viewer & 1:
                mesh[viewer]._intake.take_all((wire,), mesh.id(1 - viewer), mesh.now)
    for index in deaths:
        node, view = mesh.id(index), mesh[0]
        if view.members.is_present(node):
            incarnation = view.members.incarnation(node)
            view.members.put_gone(node, Gone(State.DEAD, incarnation, mesh.now, None))
            view._knowledge.touch(node)


def _two(records: list[int]) -> Mesh:
    """Two running nodes; of the cast, 0 and 1 know the admissions that the bits say."""
    mesh = Mesh(2 + CAST, protocol=NEVER_PERIODIC)
    for viewer in (0, 1):
        known = list(mesh.records[:4])
        for number, who in enumerate(records):
            if who >> viewer & 1:
                known += mesh.records[4 + 2 * number : 6 + 2 * number]
        mesh.machines[viewer].snapshot = Snapshot(records=tuple(known))
        mesh.start(viewer)
        mesh[viewer]._outbox.hint(mesh.id(1 - viewer), address_of(1 - viewer))
    mesh.requests.clear()
    mesh.post.clear()
    return mesh


@settings(max_examples=60, deadline=None)
@given(
    story=stories,
    records=st.lists(st.integers(0, 3), min_size=CAST, max_size=CAST),
    deaths=st.lists(st.integers(2, CAST + 1), max_size=3),
    order=st.tuples(st.booleans(), st.booleans()),
)
def test_any_two_agree_after_two_exchanges(
    story: list[tuple[str, int, int, int]],
    records: list[int],
    deaths: list[int],
    order: tuple[bool, bool],
) -> None:
    """Except where one gave up who the other sees: that one is in doubt then, on both sides.

    And no death is undone by anything but a later life that the other had heard of.
    """
    mesh = _two(records)
    _hear(mesh, story, deaths)
    views = mesh[0].members, mesh[1].members
    cast = [mesh.id(index) for index in range(2 + CAST)]
    dead = [node for node in cast if views[0].state(node) is State.DEAD]
    before = {node: views[0].incarnation(node) for node in dead}
    heard = {node: views[1].incarnation(node) for node in dead}
    for is_flipped in order:
        _exchange(mesh, *((1, 0) if is_flipped else (0, 1)))
    for node in dead:
        if views[0].is_present(node):
            assert heard[node] > before[node]
    doubted = [node for node in cast if State.DEAD in (views[0].state(node), views[1].state(node))]
    for node in doubted:
        others = {views[0].state(node), views[1].state(node)} - {State.DEAD}
        assert others <= {State.SUSPECT, None}
        for view in (mesh[0], mesh[1]):
            if view.members.is_present(node):
                view.members.put_gone(node, Gone(State.DEAD, 1, mesh.now, None))
                view._knowledge.touch(node)
    assert mesh[0]._knowledge.total == mesh[1]._knowledge.total


def test_two_sides_that_gave_each_other_up_are_one_after_one_exchange() -> None:
    """The one that was asked refutes in its answer, the other right after it."""
    mesh = Mesh(2, protocol=NEVER_PERIODIC).start_all()
    mesh.advance(60 * SECOND, deliver=False)
    mesh.post.clear()
    mesh.requests.clear()
    assert mesh.state(0, 1) is mesh.state(1, 0) is State.DEAD
    _exchange(mesh, 0, 1)
    assert mesh.state(0, 1) is State.ALIVE
    mesh.advance(SECOND)
    assert mesh.is_one()


def test_what_is_known_alike_costs_one_small_stream() -> None:
    """The exchange from time to time, when nothing is wrong: a question and its answer."""
    mesh = Mesh(30).start_all()
    mesh.machines[0].log.clear()
    mesh.machines[1].log.clear()
    _exchange(mesh, 0, 1)
    (opened,) = _opened(mesh, 0)
    (answer,) = (e for e in mesh.machines[1].log if isinstance(e, AnswerStream))
    assert len(opened.data) < 2_500
    assert len(answer.data) < 50


def test_only_the_difference_travels() -> None:
    """One offer among thirty members: a few kilobytes in all, both directions together."""
    mesh = Mesh(30).start_all()
    mesh[0].handle(OfferChanged("k", b"v"), mesh.now)
    for machine in mesh.machines[:2]:
        machine.log.clear()
    _exchange(mesh, 1, 0)
    assert mesh[1].offers.of(mesh.id(0)) == {"k": b"v"}
    effects = mesh.machines[0].log + mesh.machines[1].log
    sent = [len(e.data) for e in effects if isinstance(e, AnswerStream | OpenStream)]
    assert len(sent) == 4
    assert sum(sent) < 5_000


# ---- doubts ----


@pytest.mark.parametrize("phase_ms", range(0, 1000, 130))
def test_a_lost_rumour_arrives_within_three_seconds(phase_ms: int) -> None:
    """Although not one datagram with it arrived anywhere."""
    mesh = Mesh(6, protocol=NEVER_PERIODIC).start_all()
    mesh.advance(phase_ms * SECOND // 1000)
    mesh.give(0, OfferChanged("k", b"v"))
    mesh[0]._rumours.clear()
    mesh.advance(3 * SECOND)
    assert all(mesh[viewer].offers.of(mesh.id(0)) == {"k": b"v"} for viewer in range(6))


def test_a_lost_rumour_arrives_at_the_only_one_that_missed_it() -> None:
    """The other side of it: everybody else knows."""
    mesh = Mesh(6, protocol=NEVER_PERIODIC).start_all()
    mesh.give(0, OfferChanged("k", b"v"))
    mesh[0]._rumours.clear()
    wire = mesh[0].offers.held(mesh.id(0))[0].wire
    for viewer in range(1, 5):
        mesh[viewer]._intake.take_all((wire,), mesh.id(0), mesh.now)
        mesh[viewer]._knowledge.settle(mesh.now)
        mesh[viewer]._rumours.clear()
    mesh.advance(3 * SECOND)
    assert mesh[5].offers.of(mesh.id(0)) == {"k": b"v"}


def test_ordinary_news_causes_no_pull() -> None:
    """Gossip is quicker than the doubt: nothing is pulled while nothing is lost. (It is told so
    often here that it reaches all: of four times, one of eight is missed now and then.)
    """
    mesh = Mesh(8, protocol=dataclasses.replace(NEVER_PERIODIC, retransmit_mult=10)).start_all()
    for number in range(20):
        mesh.give(number % 8, OfferChanged("k", bytes((number,))))
        mesh.advance(SECOND + 300_000_000)
    assert sum(len(_opened(mesh, index)) for index in range(8)) == 0


class TestDoubt:
    """When a node asks, seen from inside."""

    def _quiet(self, size: int = 3) -> Mesh:
        mesh = Mesh(size, protocol=NEVER_PERIODIC).start_all()
        mesh.advance(5 * SECOND)
        return mesh

    def test_two_disagreements_a_second_apart(self) -> None:
        """The first only makes it wonder; the one in between says nothing; then it asks."""
        mesh = self._quiet()
        assert _tell(mesh, 0, 1, 7) == []
        mesh.now += QUIET_NS - 1
        assert _tell(mesh, 0, 1, 7) == []
        assert _tell(mesh, 0, 2, 7) == []
        mesh.now += 1
        (opened,) = _tell(mesh, 0, 1, 7)
        assert isinstance(opened, OpenStream)
        assert opened.peer == mesh.id(1)
        assert isinstance(decode_stream(opened.data), Digest)
        mesh.now += QUIET_NS
        assert _tell(mesh, 0, 2, 7) == []  # one pull at a time

    def test_it_asks_for_the_second_one_itself(self) -> None:
        """A second after the doubt began, or after its own last change: one ping, no more."""
        mesh = self._quiet()
        node = mesh[0]._reconciler
        checked: list[tuple[NodeId, int]] = []
        node._check = lambda peer: checked.append((peer, mesh.now))
        _tell(mesh, 0, 1, 7)
        start = mesh.now
        mesh.now += SECOND // 2
        mesh[0].handle(OfferChanged("k", b"v"), mesh.now)
        while node.deadline_ns < NEVER:
            mesh.now = node.deadline_ns
            node.advance(mesh.now)
        assert checked == [(mesh.id(1), start + SECOND // 2 + QUIET_NS)]
        assert mesh.now == start + EXCHANGE_NS

    def test_a_change_after_the_check_asks_for_another(self) -> None:
        """The answer that is under way would mean nothing any more."""
        mesh = self._quiet()
        node = mesh[0]._reconciler
        checked: list[int] = []
        node._check = lambda peer: checked.append(mesh.now)
        _tell(mesh, 0, 1, 7)
        mesh.now = node.deadline_ns
        node.advance(mesh.now)
        mesh[0].handle(OfferChanged("k", b"v"), mesh.now)
        assert _tell(mesh, 0, 1, 7) == []
        mesh.now = node.deadline_ns
        node.advance(mesh.now)
        assert checked[1] == checked[0] + QUIET_NS

    def test_a_mesh_that_is_never_quiet_is_asked_all_the_same(self) -> None:
        """Own changes put a doubt off, but not for ever."""
        mesh = self._quiet()
        _tell(mesh, 0, 1, 7)
        start, opened = mesh.now, list[Effect]()
        while not opened:
            mesh.now += QUIET_NS // 2
            mesh[0].handle(OfferChanged("k", mesh.now.to_bytes(8, "big")), mesh.now)
            opened = _tell(mesh, 0, 1, 7)
        assert mesh.now == start + RESTLESS_NS

    def test_who_was_asked_in_a_quiet_moment_is_not_asked_again_for_ever(self) -> None:
        """A change after the fifth second leaves the doubt to its end."""
        mesh = self._quiet()
        node = mesh[0]._reconciler
        checked: list[int] = []
        node._check = lambda peer: checked.append(mesh.now)
        _tell(mesh, 0, 1, 7)
        start = mesh.now
        mesh.now = node.deadline_ns
        node.advance(mesh.now)
        mesh.now = start + RESTLESS_NS + SECOND
        mesh[0].handle(OfferChanged("k", b"v"), mesh.now)
        assert node.deadline_ns == start + EXCHANGE_NS
        assert len(checked) == 1

    def test_agreement_ends_it(self) -> None:
        """Of the doubted one; what others say is another matter."""
        mesh = self._quiet()
        _tell(mesh, 0, 1, 7)
        _tell(mesh, 0, 2, mesh[0]._knowledge.total)
        assert mesh[0]._reconciler._doubt is not None
        _tell(mesh, 0, 1, mesh[0]._knowledge.total)
        assert mesh[0]._reconciler._doubt is None

    def test_who_is_asked_by_the_doubted_one_need_not_ask(self) -> None:
        """It will bring what we lack."""
        mesh = self._quiet()
        _tell(mesh, 0, 1, 7)
        _given(mesh, 0, mesh.id(2), Digest(bytes(512), bytes(512), (), b""))
        assert mesh[0]._reconciler._doubt is not None
        _given(mesh, 0, mesh.id(1), Digest(bytes(512), bytes(512), (), b""))
        assert mesh[0]._reconciler._doubt is None

    def test_who_leaves_wonders_no_more(self) -> None:
        """It begins nothing."""
        mesh = self._quiet()
        _tell(mesh, 0, 1, 7)
        mesh.give(0, LeaveRequested())
        assert _tell(mesh, 0, 1, 7) == []
        assert mesh[0]._reconciler.deadline_ns == NEVER
        assert not mesh[0]._reconciler.begin(mesh.id(1), mesh.now)

    def test_who_cannot_be_reached_is_not_asked(self) -> None:
        """Nothing waits for an answer that cannot come."""
        mesh = self._quiet()
        mesh[0]._outbox.addresses = lambda node: ()  # type: ignore[method-assign]  # nowhere
        _tell(mesh, 0, 1, 7)
        mesh.now += QUIET_NS
        assert _tell(mesh, 0, 1, 7) == []
        assert mesh[0]._reconciler._pulled is None


def _odd(node: Node) -> None:
    """From now on this node knows something that nobody else will ever take from it."""
    node._knowledge._member_sums[5] += 1
    node._knowledge.total += 1


@pytest.mark.parametrize(("size", "limit"), [(2, 4_500), (10, 27_000)])
def test_views_that_never_agree_cost_little(size: int, limit: int) -> None:
    """Bytes per minute in the whole mesh, after the first minutes; one of its members is odd."""
    mesh = Mesh(size, protocol=NEVER_PERIODIC).start_all()
    _odd(mesh[0])
    mesh.advance(180 * SECOND)
    for machine in mesh.machines:
        machine.log.clear()
    mesh.advance(600 * SECOND)
    effects = itertools.chain.from_iterable(machine.log for machine in mesh.machines)
    sent = sum(len(e.data) for e in effects if isinstance(e, AnswerStream | OpenStream))
    assert 0 < sent // 10 < limit


def test_an_odd_member_does_not_delay_the_others_repairs() -> None:
    """They agree with each other, so they doubt each other at once when something is lost."""
    mesh = Mesh(6, protocol=NEVER_PERIODIC).start_all()
    _odd(mesh[5])
    mesh.advance(300 * SECOND)
    mesh.give(0, OfferChanged("k", b"v"))
    mesh[0]._rumours.clear()
    mesh.advance(4 * SECOND)
    assert all(mesh[viewer].offers.of(mesh.id(0)) == {"k": b"v"} for viewer in range(5))


# ---- exchanges that come to nothing ----


class TestPauses:
    """A pull that brings nothing is not repeated soon."""

    def _pull(self, mesh: Mesh, peer: int) -> list[Effect]:
        """Two disagreements; returns what the second one did."""
        _tell(mesh, 0, peer, 7)
        mesh.now += QUIET_NS
        return _tell(mesh, 0, peer, 7)

    def _mesh(self) -> Mesh:
        mesh = Mesh(3, protocol=NEVER_PERIODIC).start_all()
        mesh.advance(5 * SECOND)
        return mesh

    def _barren(self, mesh: Mesh) -> int:
        """One pull without result; returns for how long that peer is left alone."""
        assert len(self._pull(mesh, 1)) == 1
        _given(mesh, 0, mesh.id(1), Difference(0, (), 0, ()))
        start = mesh.now
        while not self._pull(mesh, 1):
            assert mesh.now - start < 3600 * SECOND
        mesh[0]._reconciler.give_up(mesh.id(1), mesh.now)
        return mesh.now - start

    def test_doubled_up_to_a_minute(self) -> None:
        """From the second at which the pull ended."""
        mesh = self._mesh()
        pauses = [mesh[0]._reconciler._pauses]
        lengths = []
        for _ in range(8):
            mesh.now += 100 * SECOND
            self._pull(mesh, 1)
            _given(mesh, 0, mesh.id(1), Difference(0, (), 0, ()))
            lengths.append(pauses[0][mesh.id(1)].until_ns - mesh.now)
        assert [length // SECOND for length in lengths] == [2, 4, 8, 16, 32, 60, 60, 60]

    def test_others_are_asked_meanwhile_but_less_often_too(self) -> None:
        """While nobody agrees with us, we are the odd one: at most one pull in 16 s."""
        mesh = self._mesh()
        for _ in range(6):
            mesh.now += 100 * SECOND
            self._pull(mesh, 1)
            _given(mesh, 0, mesh.id(1), Difference(0, (), 0, ()))
        end = mesh[0]._reconciler._barren.until_ns
        assert end - mesh.now == 16 * SECOND
        assert self._pull(mesh, 2) == []
        _tell(mesh, 0, 2, mesh[0]._knowledge.total)
        assert len(self._pull(mesh, 2)) == 1

    def test_agreement_ends_the_pause(self) -> None:
        """The next difference is a new one."""
        mesh = self._mesh()
        self._pull(mesh, 1)
        _given(mesh, 0, mesh.id(1), Difference(0, (), 0, ()))
        _tell(mesh, 0, 1, mesh[0]._knowledge.total)
        assert mesh[0]._reconciler._pauses == {}
        assert len(self._pull(mesh, 1)) == 1

    def test_no_answer_is_nothing_new(self) -> None:
        """After the time limit, or when the stream fails, the next one may be asked."""
        mesh = self._mesh()
        node = mesh[0]._reconciler
        self._pull(mesh, 1)
        mesh.now += EXCHANGE_NS
        node.advance(mesh.now)
        assert node._pulled is None
        assert node._pauses[mesh.id(1)].until_ns == mesh.now + PAUSE_MIN_NS
        mesh.now += 20 * SECOND
        self._pull(mesh, 1)
        mesh[0].handle(StreamFailed(mesh.id(1)), mesh.now)
        assert node._pulled is None
        assert node._pauses[mesh.id(1)].until_ns == mesh.now + 2 * PAUSE_MIN_NS
        mesh[0].handle(StreamFailed(mesh.id(1)), mesh.now)
        assert node._pauses[mesh.id(1)].until_ns == mesh.now + 2 * PAUSE_MIN_NS

    def test_what_brought_something_is_no_reason_to_pause(self) -> None:
        """The next doubt is followed at once."""
        mesh = self._mesh()
        mesh.give(1, OfferChanged("k", b"v"))
        mesh[1]._rumours.clear()
        for effect in self._pull(mesh, 1):
            mesh._carry_out(mesh.machines[0], effect)
        mesh.settle()
        assert mesh[0].offers.of(mesh.id(1)) == {"k": b"v"}
        assert mesh[0]._reconciler._pauses == {}
        mesh.now += QUIET_NS
        assert len(self._pull(mesh, 1)) == 1

    def test_a_reply_without_news_is_one_too(self) -> None:
        """What was asked for came, and was known or refused."""
        mesh = self._mesh()
        self._pull(mesh, 1)
        entry = Entry(short_id(mesh.id(2)), PRESENT, 99, 0)
        _given(mesh, 0, mesh.id(1), Difference(ALL, (entry,), 0, ()))
        life = mesh[0].members.alive_record(mesh.id(2))
        assert life is not None
        _given(mesh, 0, mesh.id(1), PushPull(True, (), (life.wire,)))
        assert mesh[0]._reconciler._pulled is None
        assert list(mesh[0]._reconciler._pauses) == [mesh.id(1)]

    def test_the_muted_are_not_asked(self) -> None:
        """Their answer would not be read."""
        mesh = self._mesh()
        forged = tampered(Insider(mesh, 2).alive(9).wire)
        mesh[0]._intake.take_all((forged,), mesh.id(1), mesh.now)
        mesh[0]._outbox.drain()
        assert self._pull(mesh, 1) == []
        assert mesh[0]._reconciler._doubt is None

    def test_who_vanishes_between_question_and_answer(self) -> None:
        """The second stream cannot be opened: the exchange is over."""
        mesh = self._mesh()
        self._pull(mesh, 1)
        mesh[0]._outbox.addresses = lambda node: ()  # type: ignore[method-assign]  # nowhere
        entry = Entry(short_id(mesh.id(2)), PRESENT, 99, 0)
        _given(mesh, 0, mesh.id(1), Difference(ALL, (entry,), 0, ()))
        assert mesh[0]._reconciler._pulled is None
        assert mesh[0]._reconciler._exchanges.get(mesh.id(1)) is None

    def test_the_tables_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest pause is forgotten; of exchanges no further is begun."""
        monkeypatch.setattr(reconciliation, "_PAUSES_MAX", 1)
        monkeypatch.setattr(reconciliation, "_EXCHANGES_MAX", 1)
        mesh = self._mesh()
        for peer in (1, 2):
            mesh.now += 100 * SECOND
            self._pull(mesh, peer)
            assert not mesh[0]._reconciler.begin(mesh.id(3 - peer), mesh.now)
            _given(mesh, 0, mesh.id(peer), Difference(0, (), 0, ()))
        assert list(mesh[0]._reconciler._pauses) == [mesh.id(2)]

    def test_the_same_is_not_begun_twice_in_a_second(self) -> None:
        """After it, it may: another address may be known by then."""
        mesh = self._mesh()
        node = mesh[0]._reconciler
        assert node.begin(mesh.id(1), mesh.now)
        assert not node.begin(mesh.id(1), mesh.now + SECOND - 1)
        assert node.begin(mesh.id(1), mesh.now + SECOND)


# ---- after a gap ----


class TestResync:
    """A node that stood still asks somebody before it judges."""

    def _mesh(self, size: int = 4) -> Mesh:
        return Mesh(size, protocol=NEVER_PERIODIC).start_all()

    def test_an_exchange_ends_it(self) -> None:
        """One member was asked for everything that we missed."""
        mesh = self._mesh()
        assert mesh[0]._reconciler.is_synced
        mesh.machines[0].log.clear()
        mesh.give(0, Resumed(20 * SECOND))
        assert not mesh[0]._reconciler.is_synced
        assert len(_opened(mesh, 0)) == 1
        mesh.settle()
        assert mesh[0]._reconciler.is_synced

    def test_others_are_asked_when_one_is_silent(self) -> None:
        """Every two seconds, until one answers."""
        mesh = self._mesh(9)
        mesh.give(0, Resumed(20 * SECOND))
        mesh.requests.clear()
        mesh.machines[0].log.clear()
        for _ in range(9):
            mesh.now += PAUSE_MIN_NS
            mesh[0]._reconciler.advance(mesh.now)
        mesh.machines[0].log += mesh[0]._outbox.drain()
        assert len({e.peer for e in _opened(mesh, 0)}) >= 3
        assert not mesh[0]._reconciler.is_synced

    def test_a_digest_counts_only_when_it_cannot_be_an_old_one(self) -> None:
        """What lay in the socket's buffer during the gap agrees with our old view."""
        mesh = self._mesh()
        mesh.give(0, Resumed(20 * SECOND))
        total = mesh[0]._knowledge.total
        mesh.now += 2 * SECOND - 1
        _tell(mesh, 0, 1, total)
        assert not mesh[0]._reconciler.is_synced
        mesh.now += 1
        _tell(mesh, 0, 1, total)
        assert mesh[0]._reconciler.is_synced

    def test_exchanges_of_before_do_not_count(self) -> None:
        """Their answers may have been waiting all the time; they are not even read."""
        mesh = self._mesh(2)
        mesh[0]._reconciler.begin(mesh.id(1), mesh.now)
        mesh[0]._outbox.drain()
        mesh[0]._outbox.addresses = lambda node: ()  # type: ignore[method-assign]  # nowhere
        mesh.give(0, Resumed(20 * SECOND))
        effects = _given(mesh, 0, mesh.id(1), Difference(0, (), 0, ()))
        assert drops_in(effects) == [DropReason.UNEXPECTED]
        assert not mesh[0]._reconciler.is_synced

    def test_who_is_alone_has_missed_nothing(self) -> None:
        """There is nobody to ask; nor for who has left."""
        mesh = Mesh(2)
        mesh.start(0)
        mesh.give(0, Resumed(20 * SECOND))
        assert mesh[0]._reconciler.is_synced
        mesh = self._mesh(2)
        mesh.give(0, LeaveRequested())
        mesh.give(0, Resumed(20 * SECOND))
        assert mesh[0]._reconciler.is_synced


# ---- hostile members ----


class TestHostile:
    """Whatever a member sends is bounded, and what is invented is ignored."""

    _hostile = Mesh(4, protocol=NEVER_PERIODIC).start_all()
    """For what must not change anything."""

    def _mesh(self, size: int = 3) -> Mesh:
        return Mesh(size, protocol=NEVER_PERIODIC).start_all()

    def test_differences_that_nobody_asked_for(self) -> None:
        """Also a second one to the same question."""
        mesh = self._mesh()
        entry = Entry(b"invented", PRESENT, 1, 0)
        message = Difference(0, (entry,), 0, ())
        effects = _given(mesh, 0, mesh.id(1), message)
        assert drops_in(effects) == [DropReason.UNEXPECTED]
        mesh[0]._reconciler.begin(mesh.id(1), mesh.now)
        assert drops_in(_given(mesh, 0, mesh.id(1), message)) == []
        assert drops_in(_given(mesh, 0, mesh.id(1), message)) == [DropReason.UNEXPECTED]

    def test_strangers_learn_nothing(self) -> None:
        """A key that nobody admitted gets no answer."""
        mesh = self._mesh()
        life = mesh[1].members.alive_record(mesh.id(1))
        assert life is not None
        digest = Digest(bytes(512), bytes(512), mesh.records, life.wire)
        effects = _given(mesh, 0, NodeId(bytes(32)), digest)
        assert drops_in(effects) == [DropReason.NOT_ADMITTED]
        assert _answers(effects) == []

    def test_a_member_brings_its_premises(self) -> None:
        """Who has not heard of it yet knows it, and its life, after the first message."""
        mesh = Mesh(3)
        mesh.machines[0].snapshot = Snapshot(records=mesh.records[:2])
        mesh.start(0)
        mesh.start(2)
        mesh[2]._outbox.hint(mesh.id(0), address_of(0))
        assert mesh[0].authority.admission(mesh.id(2)) is None
        _exchange(mesh, 2, 0)
        assert mesh.state(0, 2) is State.ALIVE
        assert mesh.state(2, 0) is State.ALIVE
        assert mesh[0].authority.admission(mesh.id(1)) is not None

    def test_one_that_states_no_life_is_answered_all_the_same(self) -> None:
        """Before its first words, or after its last."""
        mesh = self._mesh()
        (answer,) = _answers(_given(mesh, 0, mesh.id(1), Digest(bytes(512), bytes(512), (), b"")))
        assert isinstance(answer, Difference)
        assert len(answer.entries) == 3
        assert len(answer.record_ids) == len(mesh.records)

    def test_the_muted_are_not_read(self) -> None:
        """Neither question nor answer of who passed on a bad signature."""
        mesh = self._mesh()
        forged = tampered(Insider(mesh, 2).alive(9).wire)
        mesh[0]._reconciler.begin(mesh.id(1), mesh.now)
        digest = Digest(bytes(512), bytes(512), (), forged)
        effects = _given(mesh, 0, mesh.id(1), digest)
        assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
        assert _answers(effects) == []
        for message in (
            dataclasses.replace(digest, alive=b""),
            Difference(0, (Entry(b"invented", PRESENT, 1, 0),), 0, ()),
            PushPull(False, (), (), ()),
        ):
            effects = _given(mesh, 0, mesh.id(1), message)
            assert drops_in(effects) == [DropReason.MUTED]
            assert _answers(effects) == []

    def test_invented_entries_and_ids_cost_little(self) -> None:
        """Ten thousand of each: a bounded question, at once; and the answer brings nothing."""
        mesh = self._mesh()
        entries = tuple(Entry(n.to_bytes(8, "big"), n % 3, 1 + n, n) for n in range(10_000))
        ids = tuple(seed_of(n)[:8] for n in range(10_000))
        mesh[0]._reconciler.begin(mesh.id(1), mesh.now)
        mesh[0]._outbox.drain()
        effects = _given(mesh, 0, mesh.id(1), Difference(ALL, entries, ALL, ids))
        (opened,) = (e for e in effects if isinstance(e, OpenStream))
        asked = decode_stream(opened.data)
        assert isinstance(asked, PushPull)
        assert asked.wanted is not None
        assert len(asked.wanted) == comparison.WANTED_MAX
        assert len(asked.statements) == 3
        assert len(opened.data) < 50_000

    def test_what_does_not_exist_is_not_in_the_answer(self) -> None:
        """Invented ids, members that only their admission tells of, and doubles."""
        mesh = Mesh(3)
        mesh.start(0)
        wanted = (b"invented", short_id(mesh.id(1)), short_id(mesh.id(0)), short_id(mesh.id(0)))
        (answer,) = _answers(_given(mesh, 0, mesh.id(1), PushPull(False, (), (), wanted)))
        own = mesh[0].members.alive_record(mesh.id(0))
        assert own is not None
        assert answer == PushPull(True, (), (own.wire,))

    def test_an_answer_is_never_larger_than_a_message(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What does not fit comes with the next exchange; each item whole or not at all."""
        monkeypatch.setattr(comparison, "EXCHANGE_BYTES_MAX", 1_500)
        mesh = self._mesh(12)
        wanted = tuple(short_id(machine.id) for machine in mesh.machines)
        (answer,) = _answers(_given(mesh, 0, mesh.id(1), PushPull(False, (), (), wanted)))
        assert isinstance(answer, PushPull)
        assert 5 < len(answer.statements) < 12
        assert len(encode_stream(answer)) < 1_600
        assert comparison.EXCHANGE_BYTES_MAX < STREAM_BYTES_MAX

    def test_what_does_not_fit_comes_next_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A large difference takes several exchanges, and then there is none."""
        monkeypatch.setattr(comparison, "EXCHANGE_BYTES_MAX", 3_000)
        monkeypatch.setattr(comparison, "WANTED_MAX", 5)
        mesh = _two([1, 2, 3, 1, 2, 3, 1])
        _hear(mesh, [("life", index, 1, 3) for index in range(2, 2 + CAST)], [])
        for _ in range(8):
            _exchange(mesh, 0, 1)
        assert mesh[0]._knowledge.total == mesh[1]._knowledge.total

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_anything_leads_to_an_answer_or_a_drop(self, data: st.DataObject) -> None:
        """Digests, differences and wishes of any content, about members that exist or do not."""
        mesh = self._hostile
        known = [short_id(machine.id) for machine in mesh.machines]
        names = st.one_of(st.sampled_from(known), st.binary(min_size=8, max_size=8))
        sums = st.binary(min_size=512, max_size=512)
        wires = st.one_of(st.sampled_from(mesh.records), st.binary(max_size=400))
        numbers = st.integers(0, 2**53 - 1)
        entries = st.builds(Entry, names, st.integers(0, 2), numbers, st.integers(0, 2**64 - 1))
        buckets = st.integers(0, ALL)
        message = data.draw(
            st.one_of(
                st.builds(Digest, sums, sums, st.lists(wires, max_size=9).map(tuple), wires),
                st.builds(
                    Difference,
                    buckets,
                    st.lists(entries, max_size=20).map(tuple),
                    buckets,
                    st.lists(names, max_size=20).map(tuple),
                ),
                st.builds(
                    PushPull,
                    st.booleans(),
                    st.lists(wires, max_size=9).map(tuple),
                    st.lists(wires, max_size=9).map(tuple),
                    st.lists(names, max_size=20).map(tuple),
                ),
            )
        )
        mesh.now += SECOND
        mesh[0]._reconciler.begin(mesh.id(1), mesh.now)
        before = mesh[0]._knowledge.total
        effects = _given(mesh, 0, mesh.id(1), message)
        assert all(isinstance(answer, Difference | PushPull) for answer in _answers(effects))
        assert mesh[0]._knowledge.total == before

    def test_twenty_thousand_invented_members_take_little_time_and_memory(self) -> None:
        """In one answer of eight megabytes: it ends where the first signature is bad."""
        mesh = self._mesh()
        good = Insider(mesh, 2).alive(9).wire
        wires = tuple(good[:-64] + seed_of(n) * 2 for n in range(20_000))
        message = PushPull(False, (), wires, ())
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        mesh[0]._push_puller.on_push_pull(1, mesh.id(1), message, mesh.now)
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert drops_in(mesh[0]._outbox.drain()) == [DropReason.BAD_SIGNATURE]
        assert peak - before < 1_000_000
        assert after - before < 20_000

    def test_a_hint_still_finds_who_did_not_answer(self) -> None:
        """An exchange that hangs does not block another address for long."""
        mesh = Mesh(2)
        mesh.start(0)
        mesh.give(0, AddressFound(mesh.id(1), address_of(50)))
        mesh.now += SECOND
        effects = mesh.give(0, AddressFound(mesh.id(1), address_of(1)))
        (opened,) = (e for e in effects if isinstance(e, OpenStream))
        assert address_of(1) in opened.addresses
