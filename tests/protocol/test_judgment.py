"""What counts, whatever the order in which it came."""

import contextlib
import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.issuing import Turn, make_api_key, make_grant, make_invite, turn_after
from protocol.judgment import LEVELS_MAX, judge
from protocol.records import (
    NO_ACT,
    Admission,
    Invite,
    Priority,
    Record,
    Records,
    Role,
    Target,
    decode_record,
    record_name,
)
from protocol.standing import Standing
from tests.helpers.nodes import WALL_S, Authorities, refusal, seed_of

SEEDS = [seed_of("judged", n) for n in range(6)]
CRYPTOS = [SodiumCrypto(seed) for seed in SEEDS]
CHECKED = Records()
"""So that a record which is judged a thousand times is checked once."""


class Case:
    """A mesh whose records are written down here, and judged in many orders."""

    def __init__(self) -> None:
        self.book = Authorities("judged")
        self.records: list[Record] = [self.book.invite, self.book.founding]

    def add(self, record: Record) -> Record:
        """One record more."""
        self.records.append(record)
        return record

    def revoke(
        self,
        subject: bytes,
        target: Target = Target.NODE,
        *,
        issuer_seed: bytes | None = None,
        honoured_act: bytes = NO_ACT,
        honoured_slot: int = 0,
    ) -> Record:
        """By the root, or by somebody else."""
        return self.add(
            self.book.revoke(
                subject,
                target,
                issuer_seed=issuer_seed,
                honoured_act=honoured_act,
                honoured_slot=honoured_slot,
            )
        )

    def join(
        self,
        index: int,
        role: Role = Role.WORKER,
        *,
        admitter: SodiumCrypto | None = None,
        issuer_seed: bytes | None = None,
        label: object = "",
    ) -> Admission:
        """A member by an invite of its own."""
        key_seed = seed_of("judged invite", index, role, label)
        invite = self.book.issue(key_seed, role=role, issuer_seed=issuer_seed, uses=3)
        _, admission = self.book.admit(
            CRYPTOS[index], role=role, invite=invite, key_seed=key_seed, admitter=admitter
        )
        self.records += [invite, admission]
        return admission

    def authority(self, records: list[Record] | None = None) -> Authority:
        """Who has taken these in, one after the other, and again whatever was refused."""
        authority = Authority(self.book.founder, self.book.root, CHECKED)
        left = list(self.records if records is None else records)
        for _ in range(4):
            for record in left:
                refusal(authority.add, record.wire)
            left = [r for r in left if not authority.is_counting(r.wire)]
        return authority

    def roles(self, records: list[Record] | None = None) -> list[Role | None]:
        """Of everybody, in this view."""
        authority = self.authority(records)
        return [authority.role_of(crypto.node_id) for crypto in CRYPTOS]

    def agreed_roles(self) -> list[Role | None]:
        """Of everybody; the same in many orders, and by judging all at once."""
        roles = self.roles()
        judged = judge(self.book.root, self.records)
        members = dict.fromkeys(judged.members())
        assert [c.node_id in members for c in CRYPTOS] == [role is not None for role in roles]
        shuffler = random.Random(1)
        for _ in range(60):
            shuffler.shuffle(self.records)
            assert self.roles(self.records) == roles
            counting = self.authority(self.records).records()
            assert {r.wire for r in counting} == dict.fromkeys(judged.counting).keys()
        return roles


@pytest.fixture
def case() -> Case:
    return Case()


def test_an_admin_invites_and_its_guests_outlive_it(case: Case) -> None:
    """Whoever came by a revoked admin's invite stays, if the revocation honours it."""
    case.join(0, Role.ADMIN)
    guest = case.join(1, issuer_seed=SEEDS[0])
    invite = case.records[-2]
    assert case.agreed_roles()[:2] == [Role.ADMIN, Role.WORKER]
    case.revoke(CRYPTOS[0].node_id, honoured_act=record_name(invite))
    late = case.book.issue(seed_of("too late"), issuer_seed=SEEDS[0])
    case.add(late)
    assert case.agreed_roles()[:2] == [None, Role.WORKER]
    assert not case.authority().is_counting(late.wire)
    assert case.authority().admission(CRYPTOS[1].node_id) == guest


def test_what_is_not_honoured_goes(case: Case) -> None:
    """A cascade: nothing that the admin decided holds, and so on."""
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN, issuer_seed=SEEDS[0])
    case.join(2, issuer_seed=SEEDS[1])
    case.join(3)
    assert case.agreed_roles()[:4] == [Role.ADMIN, Role.ADMIN, Role.WORKER, Role.WORKER]
    case.revoke(CRYPTOS[0].node_id)
    assert case.agreed_roles()[:4] == [None, None, None, Role.WORKER]


def test_nothing_can_be_slipped_in_before_the_last_honoured_act(case: Case) -> None:
    """A revoked admin signs another act under an old number: it is in no chain."""
    case.join(0, Role.ADMIN)
    first, second = (case.book.issue(seed_of("act", n), issuer_seed=SEEDS[0]) for n in range(2))
    case.records += [first, second]
    case.revoke(CRYPTOS[0].node_id, honoured_act=record_name(second))
    forged = make_invite(
        SEEDS[0],
        case.book.mesh,
        key=seed_of("whatever"),
        turn=Turn(1, NO_ACT),
        role=Role.ADMIN,
        expires_at_s=WALL_S,
        uses=9,
        is_trusted=True,
        owner="me",
    )
    case.add(forged)
    case.agreed_roles()
    authority = case.authority()
    assert [authority.is_counting(r.wire) for r in (first, second, forged)] == [True, True, False]


def test_a_revoked_member_lets_nobody_in_any_more(case: Case) -> None:
    """Nor can it say that it did so before; whom an admin has let in again stays."""
    case.join(0)
    kept = case.join(1, admitter=CRYPTOS[0])
    case.join(2, admitter=CRYPTOS[0])
    assert case.agreed_roles()[:3] == [Role.WORKER] * 3
    (invite,) = (
        r for r in case.records if isinstance(r, Invite) and r.key == kept.proof.invite_key
    )
    key_seed = seed_of("judged invite", 1, Role.WORKER, "")
    _, again = case.book.admit(
        CRYPTOS[1], invite=invite, key_seed=key_seed, admitted_at_s=WALL_S + 5
    )
    case.add(again)
    assert case.agreed_roles()[:3] == [Role.WORKER] * 3
    case.revoke(CRYPTOS[0].node_id)
    assert case.agreed_roles()[:3] == [None, Role.WORKER, None]


def test_a_revoked_invite_is_of_no_use(case: Case) -> None:
    """Up to the honoured slot who came stays; a cascade leaves nobody."""
    key_seed = seed_of("three")
    invite = case.book.issue(key_seed, uses=3)
    case.add(invite)
    for slot in (1, 2, 3):
        _, admission = case.book.admit(CRYPTOS[slot], slot=slot, invite=invite, key_seed=key_seed)
        case.add(admission)
    case.revoke(invite.key, Target.INVITE, honoured_slot=2)
    assert case.agreed_roles()[1:4] == [Role.WORKER, Role.WORKER, None]
    case.revoke(invite.key, Target.INVITE, honoured_slot=0)
    assert case.agreed_roles()[1:4] == [None] * 3


def test_of_two_who_revoke_each_other_the_one_nearer_to_the_root_stays(case: Case) -> None:
    """Whichever came first."""
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN, issuer_seed=SEEDS[0])
    for one, other in ((1, 0), (0, 1)):
        case.revoke(CRYPTOS[other].node_id, issuer_seed=SEEDS[one])
    # Number 1 came by an invite that number 0's own revocation would have to honour.
    assert case.agreed_roles()[0] is Role.ADMIN
    assert case.agreed_roles()[1] is None


def test_equals_do_not_revoke_each_other(case: Case) -> None:
    """That is for those nearer to the root: else a thief would, too."""
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN)
    case.revoke(CRYPTOS[1].node_id, issuer_seed=SEEDS[0])
    case.revoke(CRYPTOS[0].node_id, issuer_seed=SEEDS[1])
    assert case.agreed_roles()[:2] == [Role.ADMIN, Role.ADMIN]


@pytest.mark.parametrize("strict", [0, 1])
def test_of_equals_who_revoke_the_same_the_strictest_has_it(case: Case, strict: int) -> None:
    """Nobody softens what an equal has decided, be his key the lower one or not."""
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN)
    case.join(2, Role.ADMIN, issuer_seed=SEEDS[0])
    case.join(3, issuer_seed=SEEDS[2])
    all_of_it = record_name(case.records[-2])
    assert case.agreed_roles()[2:4] == [Role.ADMIN, Role.WORKER]
    for index in (0, 1):
        honoured = NO_ACT if index == strict else all_of_it
        case.revoke(CRYPTOS[2].node_id, issuer_seed=SEEDS[index], honoured_act=honoured)
    assert case.agreed_roles()[2:4] == [None, None]


def test_an_invite_that_comes_late_raises_whom_a_grant_had_raised_less(case: Case) -> None:
    """An admin by a far grant, whose nearer invite comes behind its admission: the same level, and
    the same memberships by it, as where the invite came first.
    """
    admin, puppet, far, raised, guest = range(5)
    case.join(admin, Role.ADMIN)
    for index, by in ((puppet, admin), (far, puppet)):
        case.join(index, Role.ADMIN, issuer_seed=SEEDS[by], admitter=CRYPTOS[by])
    case.join(raised, Role.ADMIN, issuer_seed=SEEDS[admin], admitter=CRYPTOS[admin])
    invite, admission = case.records[-2:]
    grant = case.book.grant(CRYPTOS[raised].node_id, SEEDS[far])
    token = seed_of("of three")
    three = case.book.issue(token, uses=3)
    _, by_puppet = case.book.admit(
        CRYPTOS[guest], invite=three, key_seed=token, slot=1, admitter=CRYPTOS[puppet]
    )
    _, by_raised = case.book.admit(
        CRYPTOS[guest], invite=three, key_seed=token, slot=2, admitter=CRYPTOS[raised]
    )
    known = case.records[:-2]
    orders: list[list[Record]] = [
        [*known, grant, admission, invite, three, by_puppet, by_raised],
        [*known, invite, admission, grant, three, by_puppet, by_raised],
    ]
    late, early = (case.authority(order) for order in orders)
    for one in (late, early):
        assert one.level_of(CRYPTOS[raised].node_id) == 3
        held = one.admission(CRYPTOS[guest].node_id)
        assert held is not None
        assert held.wire == min(by_puppet, by_raised, key=record_name).wire
    assert {r.wire for r in late.records()} == {r.wire for r in early.records()}


def test_the_root_undoes_what_a_stolen_key_revoked(case: Case) -> None:
    """A stolen admin throws everybody out; revoked itself, with what it did before honoured, its
    revocations are void and everybody is back.
    """
    case.join(0, Role.ADMIN)
    case.join(1, issuer_seed=SEEDS[0])
    honoured = record_name(case.records[-2])
    case.join(2)
    for index in (1, 2):
        case.revoke(CRYPTOS[index].node_id, issuer_seed=SEEDS[0])
    assert case.agreed_roles()[:3] == [Role.ADMIN, None, None]
    case.revoke(CRYPTOS[0].node_id, honoured_act=honoured)
    assert case.agreed_roles()[:3] == [None, Role.WORKER, Role.WORKER]


def test_a_grant_makes_an_admin_of_any_member(case: Case) -> None:
    """Also of a client; it invites, admits and revokes; and with its grantor's acts it goes."""
    case.join(0, Role.ADMIN)
    case.join(1, Role.CLIENT)
    case.add(case.book.grant(CRYPTOS[1].node_id, SEEDS[0]))
    case.join(2, admitter=CRYPTOS[1], issuer_seed=SEEDS[1])
    assert case.agreed_roles()[:3] == [Role.ADMIN, Role.ADMIN, Role.WORKER]
    case.revoke(CRYPTOS[0].node_id)
    assert case.agreed_roles()[:3] == [None, Role.CLIENT, None]


@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT, Role.OBSERVER])
def test_only_admins_decide(case: Case, role: Role) -> None:
    """No other member's invite, grant or revocation counts."""
    case.join(0, role)
    case.join(1)
    authority = case.authority()
    for act in (
        case.book.issue(seed_of("mine"), issuer_seed=SEEDS[0]),
        case.book.grant(CRYPTOS[0].node_id, SEEDS[0]),
        case.book.revoke(CRYPTOS[1].node_id, issuer_seed=SEEDS[0]),
    ):
        assert refusal(authority.add, act.wire) is DropReason.NOT_ALLOWED
        case.add(act)
    assert case.agreed_roles()[:2] == [role, Role.WORKER]


def test_a_grant_to_oneself_raises_nobody(case: Case) -> None:
    """Standing grows from the root, never from itself."""
    case.join(0)
    for one, other in ((0, 1), (1, 0)):
        case.add(
            make_grant(
                SEEDS[one], case.book.mesh, subject=CRYPTOS[other].node_id, turn=Turn(1, NO_ACT)
            )
        )
    assert case.agreed_roles()[:2] == [Role.WORKER, None]


def test_the_root_cannot_be_revoked(case: Case) -> None:
    """Such an act has no effect, and is one of its issuer's acts like any other."""
    case.join(0, Role.ADMIN)
    case.revoke(NodeId(case.book.root), issuer_seed=SEEDS[0])
    case.join(1, issuer_seed=SEEDS[0])
    case.join(2)
    case.revoke(CRYPTOS[0].node_id, honoured_act=record_name(case.records[-4]))
    assert case.agreed_roles()[:3] == [None, Role.WORKER, Role.WORKER]


def test_a_grant_raises_only_whom_somebody_as_near_has_let_in(case: Case) -> None:
    """So nobody has power who is no member, and could not be revoked by name."""
    case.join(0, Role.ADMIN)
    case.add(case.book.grant(CRYPTOS[1].node_id))  # by the root key, for the founder's guest
    guest = case.join(1)
    case.add(case.book.grant(CRYPTOS[2].node_id, SEEDS[0]))  # for nobody's guest
    case.agreed_roles()
    authority = case.authority()
    assert [authority.may_issue(CRYPTOS[n].node_id) for n in range(3)] == [True, False, False]
    case.add(case.book.admit_again(guest))
    assert case.agreed_roles()[:3] == [Role.ADMIN, Role.ADMIN, None]


def test_whom_a_grant_raised_needs_no_invite(case: Case) -> None:
    """Not the one by which it came, whoever issued that; its power goes with who gave it."""
    case.join(0, Role.ADMIN)
    guest = case.join(1, issuer_seed=SEEDS[0])
    case.add(case.book.admit_again(guest))
    case.add(case.book.grant(guest.node))
    case.revoke(guest.proof.invite_key, Target.INVITE, issuer_seed=SEEDS[0])
    assert case.agreed_roles()[:2] == [Role.ADMIN, Role.ADMIN]
    case.revoke(CRYPTOS[0].node_id)
    assert case.agreed_roles()[:2] == [None, Role.ADMIN]
    assert case.authority().invite_of(guest.node) is None
    premises = [decode_record(wire) for wire in case.authority().premises(guest.node, 63)]
    assert [type(record).__name__ for record in premises] == ["Grant", "Admission"]


def test_once_is_enough_to_let_somebody_in_again(case: Case) -> None:
    """One admission of one node by one key counts: nobody fills the table with more."""
    case.join(0, Role.ADMIN)
    guest = case.join(1)
    for later in range(1, 5):
        case.add(case.book.admit_again(guest, SEEDS[0], later=later))
    assert case.agreed_roles()[:2] == [Role.ADMIN, Role.WORKER]
    counting = [r for r in case.authority().records() if isinstance(r, Admission)]
    assert len([r for r in counting if r.node == guest.node]) == 2


def test_the_table_of_admissions_does_not_grow_by_rivals(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are void because of one, and count again when that one is revoked."""
    monkeypatch.setattr("protocol.judgment.ADMISSIONS_MAX", 4)
    case.join(0)
    for index in range(1, 5):
        case.join(index, admitter=CRYPTOS[0])
    case.revoke(CRYPTOS[0].node_id)
    for index in range(1, 6):
        case.join(index, label="again")
    judged = judge(case.book.root, case.records)
    assert len([r for r in judged.counting.values() if isinstance(r, Admission)]) == 4


def test_a_frame_is_judged_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose records wait for each other, in the order that is worst."""
    judged: list[int] = []

    def counted(root: bytes, records: Iterable[Record]) -> Standing:
        held = list(records)
        judged.append(len(held))
        return judge(root, held)

    monkeypatch.setattr("protocol.authority.judge", counted)
    authority = case.authority()
    for index in range(5):
        admitter = CRYPTOS[index - 1] if index else None
        issuer_seed = SEEDS[index - 1] if index else None
        case.join(index, Role.ADMIN, admitter=admitter, issuer_seed=issuer_seed)
    judged.clear()
    for record in reversed(case.records[2:]):
        with contextlib.suppress(Refused):
            authority.add(record.wire, is_part=True)
    authority.settle()
    assert judged == [len(case.records)]
    assert authority.role_of(CRYPTOS[4].node_id) is Role.ADMIN


def test_a_node_has_one_admission(case: Case) -> None:
    """Of two, by two invites and with two roles, everybody keeps the same."""
    one, other = case.join(0), case.join(0, Role.CLIENT)
    stays = min(one, other, key=record_name)
    assert case.agreed_roles()[0] is stays.role


def test_a_slot_is_settled_before_what_rests_on_it(case: Case) -> None:
    """The loser of a slot lets nobody in: not even a winner of its own slot."""
    key_seed = seed_of("one slot")
    invite = case.book.issue(key_seed, uses=1)
    case.add(invite)
    for index in (0, 1):
        _, admission = case.book.admit(CRYPTOS[index], invite=invite, key_seed=key_seed)
        case.add(admission)
    case.join(2, admitter=CRYPTOS[0])
    case.join(3, admitter=CRYPTOS[1])
    roles = case.agreed_roles()
    assert [role is None for role in roles[:2]] == [role is None for role in roles[2:4]]
    assert roles[:2].count(None) == 1


def test_api_keys_are_acts_too(case: Case) -> None:
    """They count while their issuer's acts hold, and until they are revoked."""
    case.join(0, Role.ADMIN)
    first = make_api_key(
        SEEDS[0],
        case.book.mesh,
        key_hash=bytes(32),
        turn=Turn(1, NO_ACT),
        name="lab",
        requests=0,
        period_s=1,
        priority=Priority.NORMAL,
        models="",
        is_trusted=False,
        expires_at_s=0,
    )
    case.add(first)
    assert case.authority().api_key(bytes(32)) == first
    assert case.authority().api_keys() == (first,)
    assert turn_after(first).act == case.authority().next_turn(CRYPTOS[0].node_id).act == 2
    cascade = case.revoke(CRYPTOS[0].node_id)
    case.agreed_roles()
    assert case.authority().api_key(bytes(32)) is None
    case.records.remove(cascade)
    case.revoke(bytes(32), Target.API_KEY)
    case.agreed_roles()
    assert case.authority().api_key(bytes(32)) is None
    assert case.authority().api_keys() == ()


def _acts(data: st.DataObject, case: Case) -> None:
    """Two admins, then a few random records by them, by the root and by who may become one."""
    case.join(0, Role.ADMIN, label="first")
    case.join(1, Role.ADMIN, issuer_seed=data.draw(st.sampled_from([None, SEEDS[0]])))
    for number in range(data.draw(st.integers(1, 16))):
        whom = data.draw(st.integers(0, 5))
        issuer = data.draw(st.sampled_from([None, *SEEDS[:3]]))
        match data.draw(st.integers(0, 6)):
            case 0 | 1:
                admitter = data.draw(st.sampled_from([None, *CRYPTOS[:4]]))
                role = data.draw(st.sampled_from([Role.ADMIN, Role.WORKER, Role.CLIENT]))
                case.join(whom, role, admitter=admitter, issuer_seed=issuer, label=number)
            case 2:
                case.add(case.book.grant(CRYPTOS[whom].node_id, issuer))
            case 3:
                again = [r for r in case.records if isinstance(r, Admission)]
                later = data.draw(st.integers(0, 2))
                whose = data.draw(st.sampled_from(again))
                case.add(case.book.admit_again(whose, issuer, later=later))
            case 4 | 5:
                honoured = data.draw(st.sampled_from(case.records))
                name = data.draw(st.sampled_from([NO_ACT, record_name(honoured)]))
                case.revoke(CRYPTOS[whom].node_id, issuer_seed=issuer, honoured_act=name)
            case _:
                invites = [r for r in case.records if isinstance(r, Invite)]
                invite = data.draw(st.sampled_from(invites))
                slot = data.draw(st.integers(0, 1))
                case.revoke(invite.key, Target.INVITE, issuer_seed=issuer, honoured_slot=slot)


@given(st.data())
def test_any_records_in_any_order_give_one_mesh(data: st.DataObject) -> None:
    """Two who hold the same records agree about all of them; and who exchanges only what counts
    ends up with the same.
    """
    case = Case()
    _acts(data, case)
    order = data.draw(st.permutations(case.records))
    one, other = case.authority(), case.authority(list(order))
    for _ in range(6):  # as anti-entropy does: each tells what counts for it
        mine, theirs = one.records(), other.records()
        for record in theirs:
            refusal(one.add, record.wire)
        for record in mine:
            refusal(other.add, record.wire)
    assert {r.wire for r in one.records()} == {r.wire for r in other.records()}
    assert {r.wire for r in one.records()} == judge(case.book.root, order).counting.keys()
    assert set(one.members()) == set(other.members())
    for record in one.records():
        assert decode_record(record.wire) == record
    newcomer = case.authority(list(one.records()))
    assert set(newcomer.members()) == set(one.members())


def test_all_orders_of_a_small_case(case: Case) -> None:
    """Every one of them, not a sample."""
    case.join(0, Role.ADMIN)
    case.add(case.book.grant(CRYPTOS[1].node_id, SEEDS[0]))
    case.join(1)
    case.revoke(CRYPTOS[0].node_id, issuer_seed=SEEDS[1])
    expected = case.agreed_roles()[:2]
    head: list[Record] = [case.book.invite, case.book.founding]
    tail = [record for record in case.records if record not in head]
    assert len(tail) == 6
    for order in itertools.permutations(tail):
        assert case.roles([*head, *order])[:2] == expected


def test_who_made_each_other_admins_rest_on_no_circle(case: Case) -> None:
    """A grant back to one's own admitter is one more record, and what a membership rests on is
    found in an end.
    """
    case.join(0, Role.ADMIN)
    case.join(1, issuer_seed=SEEDS[0], admitter=CRYPTOS[0])
    case.add(case.book.grant(CRYPTOS[1].node_id, SEEDS[0]))
    case.add(case.book.grant(CRYPTOS[0].node_id, SEEDS[1]))
    assert case.agreed_roles()[:2] == [Role.ADMIN, Role.ADMIN]
    authority = case.authority()
    for crypto in CRYPTOS[:2]:
        premises = authority.premises(crypto.node_id, 63)
        assert len(dict.fromkeys(premises)) == len(premises) <= len(case.records)


def test_an_issuers_last_word_counts(case: Case) -> None:
    """An invite is revoked for newcomers, then also for whoever came by it; or the other way."""
    case.join(0)
    invite = case.records[-2]
    assert isinstance(invite, Invite)
    case.revoke(invite.key, Target.INVITE, honoured_slot=1)
    assert case.agreed_roles()[0] is Role.WORKER
    case.revoke(invite.key, Target.INVITE, honoured_slot=0)
    assert case.agreed_roles()[0] is None
    case.revoke(invite.key, Target.INVITE, honoured_slot=1)
    assert case.agreed_roles()[0] is Role.WORKER


def test_what_an_act_revokes_is_of_its_kind(case: Case) -> None:
    """A revocation of "an API key", or of "an invite", whose bytes are a node's key does nothing to
    the node.
    """
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN, issuer_seed=SEEDS[0], admitter=CRYPTOS[0])
    case.join(2)
    before = case.agreed_roles()
    for target in (Target.API_KEY, Target.INVITE):
        for index in (0, 2):
            case.revoke(CRYPTOS[index].node_id, target, issuer_seed=SEEDS[1])
    assert case.agreed_roles() == before


def test_an_act_without_effect_still_links_the_others(case: Case) -> None:
    """What an admin may not revoke is in its chain all the same: whom it let in before stays where
    that is honoured, for those who have seen it and for those who hear of it later.
    """
    case.join(0, Role.ADMIN)
    case.join(1, Role.ADMIN)
    case.join(2, issuer_seed=SEEDS[0])
    case.revoke(CRYPTOS[1].node_id, issuer_seed=SEEDS[0])  # an equal: without effect
    case.join(3, issuer_seed=SEEDS[0])
    case.revoke(CRYPTOS[0].node_id, honoured_act=record_name(case.records[-2]))
    roles = case.agreed_roles()
    assert roles[:4] == [None, Role.ADMIN, Role.WORKER, Role.WORKER]


def test_power_ends_so_many_levels_from_the_root(case: Case) -> None:
    """However long a chain of admins is, judging it is a bounded walk."""
    seeds = [seed_of("chained admin", n) for n in range(LEVELS_MAX + 4)]
    cryptos = [SodiumCrypto(seed) for seed in seeds]
    issuer: bytes | None = None
    admitter: SodiumCrypto | None = None
    for number, crypto in enumerate(cryptos):
        key_seed = seed_of("chained invite", number)
        invite = case.book.issue(key_seed, role=Role.ADMIN, issuer_seed=issuer)
        _, admission = case.book.admit(
            crypto, role=Role.ADMIN, invite=invite, key_seed=key_seed, admitter=admitter
        )
        case.records += [invite, admission]
        issuer, admitter = seeds[number], crypto
    case.agreed_roles()
    authority = case.authority()
    powers = [authority.may_issue(crypto.node_id) for crypto in cryptos]
    first = 2  # the founder, at level 1, has let the first one in
    assert powers == [True] * (LEVELS_MAX - first) + [False] * (4 + first)
