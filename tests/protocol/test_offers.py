"""What members offer."""

import itertools

import pytest

from protocol.codec import encode_datagram
from protocol.config import SECOND, ProtocolConfig
from protocol.effects import OffersChanged, Persist
from protocol.errors import DropReason, LocalProtocolError
from protocol.events import LeaveRequested, OfferChanged, Started
from protocol.identity import INCARNATION_MAX
from protocol.messages import Gossip
from protocol.records import Role
from protocol.statements import Offer, make_offer
from tests.helpers.nodes import Insider, Mesh, address_of, drops_in

GOSSIP = encode_datagram(Gossip())


def _mesh(role: Role = Role.WORKER) -> tuple[Mesh, Insider]:
    mesh = Mesh(2, roles=[Role.ADMIN, role])
    mesh.start(0)
    insider = Insider(mesh, 1)
    insider.tell(0, GOSSIP, insider.alive().wire)
    return mesh, insider


def _offer(mesh: Mesh, index: int, version: int, key: str, value: bytes) -> Offer:
    return make_offer(mesh.machines[index].crypto, mesh.authorities.mesh, version, key, value)


def test_offers_reach_everybody() -> None:
    """By gossip, and newcomers by exchange; a removal likewise."""
    mesh = Mesh(4).start_all()
    mesh.crash(3)
    mesh.give(0, OfferChanged("model/a", b"1"))
    mesh.give(0, OfferChanged("labels", b"x"))
    mesh.advance(3 * SECOND)
    assert mesh[2].offers.of(mesh.id(0)) == {"model/a": b"1", "labels": b"x"}
    mesh.give(0, OfferChanged("model/a", b""))
    mesh.advance(3 * SECOND)
    assert mesh[2].offers.of(mesh.id(0)) == {"labels": b"x"}
    mesh.start(3)
    mesh.exchange(3, 1)
    assert mesh[3].offers.of(mesh.id(0)) == {"labels": b"x"}
    assert mesh[3].offers.version(mesh.id(0), "model/a") == 3


def test_own_offers_are_numbered_on_disk_first() -> None:
    """Each change takes one number; no change takes none."""
    mesh = Mesh(1)
    mesh.start(0)
    effects = mesh.give(0, OfferChanged("k", b"1"))
    assert [type(effect) for effect in effects][:2] == [Persist, OffersChanged]
    assert mesh.give(0, OfferChanged("k", b"1")) == []
    assert mesh.give(0, OfferChanged("never offered", b"")) == []
    mesh.give(0, OfferChanged("k", b""))
    assert mesh.machines[0].offers_version == 2


@pytest.mark.parametrize(
    ("key", "value"), [("", b"v"), ("k" * 65, b"v"), ("é", b"v"), ("a\n", b"v"), ("k", bytes(701))]
)
def test_own_offers_that_nobody_would_take_are_refused(key: str, value: bytes) -> None:
    """The driver hears of it, others never see it."""
    mesh = Mesh(1)
    mesh.start(0)
    with pytest.raises(LocalProtocolError):
        mesh[0].handle(OfferChanged(key, value), mesh.now)
    assert mesh[0].offers.all() == []


def test_the_number_of_own_offers_is_limited() -> None:
    """64 keys, or 16 KiB: one more is refused; a removed one makes room."""
    mesh = Mesh(1)
    mesh.start(0)
    for number in range(64):
        mesh.give(0, OfferChanged(f"k{number}", b"v"))
    with pytest.raises(LocalProtocolError, match="too much"):
        mesh[0].handle(OfferChanged("k64", b"v"), mesh.now)
    mesh.give(0, OfferChanged("k0", b""))
    mesh.give(0, OfferChanged("k64", b"v"))
    assert len(mesh[0].offers.all()) == 64
    for number in range(1, 14):
        mesh.give(0, OfferChanged(f"k{number}", bytes(700)))
    with pytest.raises(LocalProtocolError, match="too much"):
        mesh[0].handle(OfferChanged("k14", bytes(700)), mesh.now)


class TestOthers:
    """Offers of other members."""

    def test_higher_versions_supersede(self) -> None:
        """Lower and equal ones are stale, in any order."""
        mesh, insider = _mesh()
        offers = [_offer(mesh, 1, version, "k", bytes((version,))) for version in (1, 2, 3)]
        for order in itertools.permutations(offers):
            mesh.boot(0)
            mesh.give(0, Started((address_of(0),)))
            Insider(mesh, 1).tell(0, GOSSIP, *[offer.wire for offer in order])
            assert mesh[0].offers.of(mesh.id(1)) == {"k": b"\3"}
        assert insider.index == 1

    def test_two_values_under_one_version_are_settled_alike(self) -> None:
        """The lower bytes stay in both orders, and it is reported."""
        kept = []
        for flip in (False, True):
            mesh, insider = _mesh()
            pair = [_offer(mesh, 1, 5, "k", value) for value in (b"one", b"two")]
            first, second = sorted(pair, key=lambda offer: offer.wire, reverse=flip)
            insider.tell(0, GOSSIP, first.wire)
            effects = insider.tell(0, GOSSIP, second.wire)
            assert drops_in(effects) == [DropReason.EQUIVOCATION]
            assert drops_in(insider.tell(0, GOSSIP, second.wire)) in (
                [],
                [DropReason.EQUIVOCATION],
            )
            kept.append(mesh[0].offers.of(mesh.id(1)))
        assert kept[0] == kept[1]

    def test_nobody_offers_for_another(self) -> None:
        """A changed author breaks the signature."""
        mesh, insider = _mesh()
        forged = _offer(mesh, 1, 9, "k", b"v").wire.replace(mesh.id(1), mesh.id(0))
        assert drops_in(insider.tell(0, GOSSIP, forged)) == [DropReason.BAD_SIGNATURE]
        assert mesh[0].offers.of(mesh.id(0)) == {}

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.OBSERVER])
    def test_clients_and_observers_offer_no_models(self, role: Role) -> None:
        """They may tell what they are, not serve."""
        mesh, insider = _mesh(role)
        wires = [_offer(mesh, 1, 1, key, b"v").wire for key in ("model/a", "hardware")]
        assert drops_in(insider.tell(0, GOSSIP, *wires)) == [DropReason.NOT_ALLOWED]
        assert mesh[0].offers.of(mesh.id(1)) == {"hardware": b"v"}

    def test_too_many_are_refused(self) -> None:
        """64 keys and 16 KiB a node; what was there stays; a refusal removes nothing."""
        mesh, insider = _mesh()
        for number in range(1, 65):
            insider.tell(0, GOSSIP, _offer(mesh, 1, number, f"k{number}", b"v").wire)
        effects = insider.tell(0, GOSSIP, _offer(mesh, 1, 65, "more", b"v").wire)
        assert drops_in(effects) == [DropReason.TABLE_FULL]
        insider.tell(0, GOSSIP, _offer(mesh, 1, 66, "k1", b"").wire)
        refused = 0
        for number in range(2, 65):
            offer = _offer(mesh, 1, 100 + number, f"k{number}", bytes(700))
            refused += DropReason.TABLE_FULL in drops_in(insider.tell(0, GOSSIP, offer.wire))
        held = mesh[0].offers.all()
        assert refused > 0
        assert sum(len(offer.wire) for offer in held) <= 16_384
        mesh.now += 100 * SECOND  # its budget of changes is used up
        effects = insider.tell(0, GOSSIP, _offer(mesh, 1, 999, "new", bytes(700)).wire)
        assert drops_in(effects) == [DropReason.TABLE_FULL]
        assert mesh[0].offers.all() == held
        assert mesh[0].offers.version(mesh.id(1), "k1") == 66

    def test_a_removed_one_makes_room(self) -> None:
        """Of the removed the oldest goes."""
        mesh, insider = _mesh()
        for number in range(1, 65):
            value = b"" if number in (7, 8) else b"v"
            insider.tell(0, GOSSIP, _offer(mesh, 1, number, f"k{number}", value).wire)
        insider.tell(0, GOSSIP, _offer(mesh, 1, 65, "new", b"v").wire)
        assert mesh[0].offers.version(mesh.id(1), "k7") == 0
        assert mesh[0].offers.version(mesh.id(1), "k8") == 8
        assert mesh[0].offers.of(mesh.id(1))["new"] == b"v"

    def test_all_offers_together_have_a_limit(self) -> None:
        """Of the whole mesh, but for our own; smaller ones may still take the place of larger."""
        mesh = Mesh(3, protocol=ProtocolConfig(offer_bytes_max=1_000))
        mesh.start(0)
        insider, other = Insider(mesh, 1), Insider(mesh, 2)
        for one in (insider, other):
            one.tell(0, GOSSIP, one.alive().wire)
        assert drops_in(insider.tell(0, GOSSIP, _offer(mesh, 1, 1, "k", bytes(700)).wire)) == []
        late = _offer(mesh, 2, 1, "k", bytes(300)).wire
        assert drops_in(other.tell(0, GOSSIP, late)) == [DropReason.TABLE_FULL]
        assert mesh[0].offers.of(mesh.id(2)) == {}
        mesh.give(0, OfferChanged("own", bytes(700)))
        assert mesh[0].offers.of(mesh.id(0)) == {"own": bytes(700)}
        assert drops_in(insider.tell(0, GOSSIP, _offer(mesh, 1, 2, "k", bytes(600)).wire)) == []
        mesh[0].offers.forget(mesh.id(0))
        mesh[0].offers.forget(mesh.id(0))
        mesh[0].offers.forget(mesh.id(1))
        assert mesh[0].offers._bytes == 0
        assert drops_in(other.tell(0, GOSSIP, late)) == []

    def test_removals_make_room_in_bytes_too(self) -> None:
        """As many of the oldest as it takes, and no more."""
        mesh, insider = _mesh()
        for number in range(1, 31):
            insider.tell(0, GOSSIP, _offer(mesh, 1, number, f"gone{number}", b"").wire)
        big = [_offer(mesh, 1, 100 + n, f"big{n}", bytes(700)) for n in range(17)]
        for offer in big:
            assert drops_in(insider.tell(0, GOSSIP, offer.wire)) == []
        held = mesh[0].offers.all()
        assert [offer.key for offer in held if offer.value] == [offer.key for offer in big]
        assert 0 < sum(not offer.value for offer in held) < 30
        assert mesh[0].offers.version(mesh.id(1), "gone30") == 30


class TestOwnPast:
    """Our own offers come back from others."""

    def _said_before(self, *offers: tuple[int, str, bytes], version: int = 0) -> Mesh:
        mesh = Mesh(2)
        mesh.machines[0].offers_version = version
        mesh.start(0)
        mesh.give(0, OfferChanged("now", b"v"))
        insider = Insider(mesh, 1)
        for number, key, value in offers:
            insider.tell(0, GOSSIP, _offer(mesh, 0, number, key, value).wire)
        return mesh

    def test_what_is_not_offered_any_more_is_removed(self) -> None:
        """Above the version that others hold."""
        mesh = self._said_before((3, "old", b"v"), version=5)
        assert mesh[0].offers.of(mesh.id(0)) == {"now": b"v"}
        assert mesh[0].offers.version(mesh.id(0), "old") == 7

    def test_a_removal_that_comes_back_is_nothing_new(self) -> None:
        """Nor is what we still say."""
        mesh = self._said_before((3, "old", b""), (6, "now", b"v"), version=5)
        assert mesh.machines[0].offers_version == 6

    def test_a_removal_that_others_keep_is_kept(self) -> None:
        """So that we know the same as they do; it takes no number."""
        mesh = self._said_before((3, "old", b""), version=5)
        assert [offer.key for offer in mesh[0].offers.held(mesh.id(0))] == ["now", "old"]
        assert mesh[0].offers.of(mesh.id(0)) == {"now": b"v"}
        assert mesh[0].offers.version(mesh.id(0), "old") == 3
        assert mesh.machines[0].offers_version == 6

    def test_who_has_left_states_nothing_more(self) -> None:
        """Whatever comes back."""
        mesh = Mesh(2)
        mesh.start(0)
        mesh.give(0, LeaveRequested())
        insider = Insider(mesh, 1)
        insider.tell(0, GOSSIP, _offer(mesh, 0, 9, "old", b"v").wire)
        assert mesh[0].offers.all() == []
        assert mesh.machines[0].offers_version == 0

    def test_a_lost_past_is_risen_above(self) -> None:
        """A home restored from a backup says what it offers above its highest number."""
        mesh = self._said_before((40, "now", b"later"), version=5)
        assert mesh[0].offers.of(mesh.id(0)) == {"now": b"v"}
        assert mesh[0].offers.version(mesh.id(0), "now") == 41

    def test_another_value_under_our_present_version_is_risen_above(self) -> None:
        """Else others might keep the one that we do not mean."""
        mesh = self._said_before((6, "now", b"other"), version=5)
        assert mesh[0].offers.of(mesh.id(0)) == {"now": b"v"}
        assert mesh[0].offers.version(mesh.id(0), "now") == 7

    def test_at_the_last_number_nothing_is_said(self) -> None:
        """Nobody else would read it."""
        mesh = self._said_before((INCARNATION_MAX, "now", b"x"), version=5)
        assert mesh.machines[0].offers_version == 6


def test_offers_end_with_their_owners_presence() -> None:
    """The dead and the left offer nothing to newcomers."""
    mesh = Mesh(3).start_all()
    mesh.give(2, OfferChanged("k", b"v"))
    mesh.advance(2 * SECOND)
    assert mesh[0].offers.of(mesh.id(2)) == {"k": b"v"}
    mesh.crash(2)
    mesh.advance(60 * SECOND)
    _, statements = mesh[0].join_state()
    assert not any(_offer(mesh, 2, 1, "k", b"v").wire == wire for wire in statements)
