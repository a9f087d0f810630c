"""The order of the checks on what others bring."""

import pytest

from protocol import intake
from protocol.codec import encode_datagram, encode_stream
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.effects import Effect, OpenStream, SendDatagram
from protocol.errors import DropReason
from protocol.events import StreamReceived
from protocol.fields import pack
from protocol.identity import NodeId
from protocol.intake import (
    ACCUSATIONS_BURST,
    ACCUSATIONS_PER_S,
    CHANGES_BURST,
    CHANGES_PER_S,
    MUTED_NS,
    Taken,
)
from protocol.members import State
from protocol.messages import Gossip, Ping, PushPull
from protocol.records import Role, record_name
from protocol.statements import Alive, make_accusation, make_alive, make_left, make_offer
from tests.helpers.nodes import Insider, Mesh, address_of, drops_in, seed_of, tampered

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
    forged = [tampered(insider.alive(n).wire) for n in (7, 8, 9)]
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
    data = encode_stream(PushPull(False, (), said, ()))
    effects = mesh[0].handle(StreamReceived(1, mesh.id(1), data, mesh.wall_s), mesh.now)
    assert drops_in(effects) == [DropReason.NOT_ADMITTED] * 4
    assert checked == []


def test_a_second_admission_earns_no_correction() -> None:
    """It is stale, and as a record it accuses nobody."""
    mesh, insider, _ = _mesh()
    invite, admission = mesh.authorities.admit(mesh.machines[1].crypto, role=Role.CLIENT)
    mesh[0].authority.add(invite.wire)
    effects = insider.tell(0, GOSSIP, admission.wire)
    assert drops_in(effects) == []
    assert not any(isinstance(effect, SendDatagram) for effect in effects)


def test_an_evicted_members_accusations_end() -> None:
    """Who was suspected for its word alone is alive again; another's word stays."""
    mesh = Mesh(4)
    for index in (0, 1, 3):
        mesh.start(index)
    mesh.exchange(0, 1)
    mesh.exchange(0, 3)
    insider = Insider(mesh, 2)
    insider.tell(0, GOSSIP, insider.alive(5).wire)
    mesh_id = mesh.authorities.mesh
    lone, both = mesh.id(1), mesh.id(3)
    for subject in (lone, both):
        known = mesh[0].members.incarnation(subject)
        word = make_accusation(insider.crypto, mesh_id, subject, known, is_dead=False)
        insider.tell(0, GOSSIP, word.wire)
    mesh[0]._membership.suspect(both, mesh.now, is_refused=False)
    admission = mesh[0].authority.admission(mesh.id(2))
    assert admission is not None
    token = seed_of("mesh", "invite", mesh.id(2), admission.role, 1)
    assert mesh.state(0, 1) is State.SUSPECT
    insider.tell(0, GOSSIP, _lower(mesh, token))
    assert mesh.state(0, 1) is State.ALIVE
    assert mesh.state(0, 3) is State.SUSPECT
    assert list(mesh[0].members.suspicions[both].accusers) == [mesh.id(0)]
    assert mesh[0]._rumours.fill(1_000, 9).find(mesh.id(2)) < 0
    untouched = mesh[0].members.suspicions[both].deadline_ns
    mesh[0]._membership.expel(mesh.id(1))
    assert mesh[0].members.suspicions[both].deadline_ns == untouched


def _lower(mesh: Mesh, token: bytes) -> bytes:
    """Another admission for the insider's slot, with a lower hash."""
    held = mesh[0].authority.admission(mesh.id(2))
    invite = mesh[0].authority.invite_of(mesh.id(2))
    assert held is not None
    for number in range(1_000):
        crypto = SodiumCrypto(seed_of("rival", number))
        _, rival = mesh.authorities.admit(crypto, invite=invite, key_seed=token)
        if record_name(rival) < record_name(held):
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


class TestMuting:
    """Who passes on a bad signature checked nothing itself."""

    def _forge(self, mesh: Mesh, insider: Insider) -> list[Effect]:
        return insider.tell(0, GOSSIP, tampered(insider.alive(99).wire))

    def test_for_a_while_nothing_is_taken_in(self) -> None:
        """Neither riders nor streams; afterwards everything is as before."""
        mesh, insider, checked = _mesh()
        assert drops_in(self._forge(mesh, insider)) == [DropReason.BAD_SIGNATURE]
        checked.clear()
        mesh.now += MUTED_NS - 1
        good = insider.alive(6).wire
        assert drops_in(insider.tell(0, GOSSIP, good, good)) == [DropReason.MUTED]
        data = encode_stream(PushPull(False, (), (good,)))
        effects = mesh[0].handle(StreamReceived(1, mesh.id(2), data, mesh.wall_s), mesh.now)
        assert drops_in(effects) == [DropReason.MUTED]
        assert checked == []
        assert mesh[0].members.incarnation(mesh.id(2)) == 5
        mesh.now += 1
        assert drops_in(insider.tell(0, GOSSIP, good)) == []
        assert mesh[0].members.incarnation(mesh.id(2)) == 6

    def test_it_is_still_a_living_member(self) -> None:
        """Its pings are answered, and what others say of it counts."""
        mesh, insider, _ = _mesh()
        self._forge(mesh, insider)
        ping = encode_datagram(Ping(7, None))
        effects = insider.tell(0, ping, insider.alive(6).wire)
        assert drops_in(effects) == [DropReason.MUTED]
        assert any(isinstance(e, SendDatagram) and e.to == insider.address for e in effects)
        assert mesh[0]._intake.take_all((insider.alive(6).wire,), mesh.id(1), mesh.now) is (
            Taken.WHOLE
        )
        assert mesh[0].members.incarnation(mesh.id(2)) == 6

    def test_who_sends_nothing_is_refused_nothing(self) -> None:
        """An empty frame of a muted member is whole."""
        mesh, insider, _ = _mesh()
        self._forge(mesh, insider)
        assert drops_in(insider.tell(0, GOSSIP)) == []

    def test_a_bad_record_mutes_too(self) -> None:
        """The rest of the frame is dropped, and so is what comes in the same second."""
        mesh, insider, checked = _mesh()
        forged = tampered(mesh.authorities.issue(seed_of("x")).wire)
        effects = insider.tell(0, GOSSIP, forged, insider.alive(6).wire)
        assert drops_in(effects) == [DropReason.BAD_SIGNATURE]
        assert len(checked) == 1
        assert mesh[0]._intake.is_muted(mesh.id(2), mesh.now)

    def test_the_table_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest is heard again."""
        monkeypatch.setattr(intake, "MUTED_MAX", 1)
        mesh, insider, _ = _mesh()
        forged = tampered(insider.alive(99).wire)
        for sender in (2, 1):
            mesh[0]._intake.take_all((forged,), mesh.id(sender), mesh.now)
        assert list(mesh[0]._intake._muted) == [mesh.id(1)]


class TestBudgets:
    """An author that changes without end changes nothing after a while."""

    def _life(self, mesh: Mesh, number: int) -> Alive:
        crypto = mesh.machines[2].crypto
        return make_alive(crypto, mesh.authorities.mesh, number, "m", (address_of(2),), "")

    def _take(self, mesh: Mesh, *wires: bytes) -> list[DropReason]:
        mesh[0]._intake.take_all(wires, mesh.id(1), mesh.now)
        return drops_in(mesh[0]._outbox.drain())

    def test_lives_goodbyes_and_offers_of_one_author(self) -> None:
        """A burst, then so many a second; what is over it costs no check of a signature."""
        mesh, insider, checked = _mesh()
        mesh.now += 100 * SECOND
        mesh_id = mesh.authorities.mesh
        lives = [self._life(mesh, 10 + n).wire for n in range(CHANGES_BURST - 2)]
        assert self._take(mesh, *lives) == []
        left = make_left(insider.crypto, mesh_id, 500).wire
        offer = make_offer(insider.crypto, mesh_id, 1, "k", b"v").wire
        assert self._take(mesh, left, offer) == []
        checked.clear()
        later = [self._life(mesh, 600 + n).wire for n in range(20)]
        assert self._take(mesh, *later) == [DropReason.RATE_LIMITED] * 20
        assert checked == []
        assert mesh[0].members.incarnation(mesh.id(2)) == 500
        mesh.now += SECOND
        assert self._take(mesh, *later) == [DropReason.RATE_LIMITED] * (20 - CHANGES_PER_S)

    def test_what_changes_nothing_costs_nothing(self) -> None:
        """However often it comes, and whoever sends it."""
        mesh, insider, _ = _mesh()
        wire = insider.alive(6).wire
        forged = tampered(insider.alive(7).wire)
        for _ in range(3 * CHANGES_BURST):
            self._take(mesh, wire)
            mesh[0]._intake._muted.clear()
            self._take(mesh, forged)
        assert mesh[0]._intake._changes._spent(mesh.id(2), mesh.now) == 2 * SECOND // CHANGES_PER_S

    def test_equivocation_is_paid_for(self) -> None:
        """It may have changed something; it certainly cost two checks."""
        mesh, insider, _ = _mesh()
        mesh_id = mesh.authorities.mesh
        wires = [make_offer(insider.crypto, mesh_id, 9, "k", bytes((n,))).wire for n in range(2)]
        before = mesh[0]._intake._changes._spent(mesh.id(2), mesh.now)
        assert self._take(mesh, *wires) == [DropReason.EQUIVOCATION]
        after = mesh[0]._intake._changes._spent(mesh.id(2), mesh.now)
        assert after - before == 2 * SECOND // CHANGES_PER_S

    def test_what_was_checked_before_is_limited_too(self) -> None:
        """A cache that is shared or old is no way around it."""
        mesh, _, _ = _mesh()
        mesh.now += 100 * SECOND
        late = self._life(mesh, 999)
        mesh[0]._intake._statements.trust(late)
        self._take(mesh, *(self._life(mesh, 10 + n).wire for n in range(CHANGES_BURST)))
        assert self._take(mesh, late.wire) == [DropReason.RATE_LIMITED]

    def test_our_own_past_is_not_limited(self) -> None:
        """A restored home rises above all of it."""
        mesh, _, _ = _mesh()
        crypto, mesh_id = mesh.machines[0].crypto, mesh.authorities.mesh
        wires = [
            make_offer(crypto, mesh_id, 10 + n, f"k{n % 20}", b"v").wire
            for n in range(2 * CHANGES_BURST)
        ]
        assert DropReason.RATE_LIMITED not in self._take(mesh, *wires)

    def test_accusations_of_one_accuser(self) -> None:
        """A burst as large as half the mesh, at least 64; the same one again is free."""
        mesh, insider, _ = _mesh()
        mesh.now += 100 * SECOND
        mesh_id, budget = mesh.authorities.mesh, mesh[0]._intake._accusations
        mesh[0].members.suspicions.clear()
        incarnation = mesh[0].members.incarnation(mesh.id(1))
        accusation = make_accusation(
            insider.crypto, mesh_id, mesh.id(1), incarnation, is_dead=False
        )
        for _ in range(2 * ACCUSATIONS_BURST):
            assert self._take(mesh, accusation.wire) == []
        assert mesh[0].members.state(mesh.id(1)) is State.SUSPECT
        assert budget._spent(mesh.id(2), mesh.now) == SECOND // ACCUSATIONS_PER_S

    def test_everybody_may_be_accused_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a cut many are; the dead count as members here, and every signature counts."""
        monkeypatch.setattr(intake, "ACCUSATIONS_BURST", 1)
        mesh = Mesh(6).start_all()
        mesh.crash(5)
        mesh.advance(60 * SECOND)
        crypto = mesh.machines[1].crypto
        wires = [
            make_accusation(
                crypto,
                mesh.authorities.mesh,
                mesh.id(index),
                mesh[0].members.incarnation(mesh.id(index)),
                is_dead=is_dead,
            ).wire
            for index, is_dead in (
                (2, True),
                (2, False),
                (3, True),
                (3, False),
                (4, True),
                (4, False),
                (0, True),
            )
        ]
        mesh.now += 100 * SECOND
        mesh[0]._outbox.drain()
        assert self._take(mesh, *wires) == [DropReason.RATE_LIMITED]
        suspects = [index for index in range(6) if mesh.state(0, index) is State.SUSPECT]
        assert suspects == [2, 3, 4]

    def test_being_accused_for_ever_is_answered_for_a_while(self) -> None:
        """Each refutation is written to disk: one accuser must not keep ours busy."""
        mesh, insider, _ = _mesh()
        mesh.now += 100 * SECOND
        mesh_id, own = mesh.authorities.mesh, mesh.id(0)
        reasons: list[DropReason] = []
        for _ in range(ACCUSATIONS_BURST + 10):
            number = mesh[0].members.incarnation(own)
            wire = make_accusation(insider.crypto, mesh_id, own, number, is_dead=False).wire
            reasons += self._take(mesh, wire)
        assert reasons == [DropReason.RATE_LIMITED] * 10
        mesh.now += SECOND
        assert self._take(mesh, wire) == []


def test_too_much_that_cannot_count_ends_a_frame() -> None:
    """Without muting: nothing was forged."""
    mesh, insider, checked = _mesh()
    stranger = Mesh(1, label="strangers").machines[0].crypto
    wire = make_left(stranger, mesh.authorities.mesh, 1).wire
    wires = (*(wire,) * intake.ODD_MAX, insider.alive(6).wire)
    assert mesh[0]._intake.take_all(wires, mesh.id(1), mesh.now) is Taken.BROKEN
    assert checked == []
    assert not mesh[0]._intake.is_muted(mesh.id(1), mesh.now)


def test_what_changes_nothing_costs_its_author_all_the_same() -> None:
    """One insider's frame of thousands of signed variants of one goodbye is soon not read."""
    mesh = Mesh(3).start_all()
    insider = Insider(mesh, 2)
    crypto = insider.crypto
    wires: list[bytes] = []
    for number in range(1_000):
        body = pack((2, crypto.node_id, 9, number))
        wires.append(body + crypto.sign(b"meshd statement 1" + mesh.authorities.mesh + body))
    taken = mesh[0]._intake.take_all(wires, crypto.node_id, mesh.now)
    assert taken is Taken.BROKEN
    checked = [wire for wire in wires if mesh[0]._intake._statements.find(wire) is not None]
    assert len(checked) <= intake.CHANGES_BURST


def test_judging_costs_who_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each member pays for the judgments that it causes; strangers, whose keys cost nothing, pay
    all from one account.
    """
    monkeypatch.setattr(intake, "JUDGMENTS_BURST", 2)
    mesh = Mesh(3).start_all()
    strangers = [SodiumCrypto(seed_of("stranger", n)).node_id for n in range(2)]
    senders = [mesh.id(1)] * 3 + [mesh.id(2)] + [strangers[0]] * 2 + [strangers[1]]
    reasons: list[list[DropReason]] = []
    for number, sender in enumerate(senders):
        grant = mesh.authorities.grant(SodiumCrypto(seed_of("granted", number)).node_id)
        mesh[0]._intake.take_all([grant.wire], sender, mesh.now)
        reasons.append(drops_in(mesh[0]._outbox.drain()))
    assert [bool(found) for found in reasons] == [False, False, True, False, False, False, True]
    assert reasons[2] == reasons[6] == [DropReason.RATE_LIMITED]
