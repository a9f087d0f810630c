"""Who is a member."""

import itertools

import pytest

from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId, short_id
from protocol.records import Record, Role, Target, record_name
from protocol.waiting import WAITING_MAX
from tests.helpers.nodes import WALL_S, Authorities, refusal, seed_of, tampered

A = Authorities()
FOUNDER = A.founder
CRYPTOS = [SodiumCrypto(seed_of("authority", n)) for n in range(6)]
TOKEN = seed_of("token")


class CountingCrypto(SodiumCrypto):
    """Counts checks."""

    checks = 0

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """As ever."""
        self.checks += 1
        return super().verify(key, signature, data)


def _authority(crypto: SodiumCrypto = FOUNDER) -> Authority:
    authority = Authority(crypto, A.root)
    authority.add(A.invite.wire)
    authority.add(A.founding.wire)
    return authority


def _reason(authority: Authority, wire: bytes) -> DropReason:
    with pytest.raises(Refused) as caught:
        authority.add(wire)
    return caught.value.reason


def test_the_founder_is_a_member() -> None:
    """By the root's invite and admission."""
    authority = _authority()
    assert authority.admission(FOUNDER.node_id) == A.founding
    assert authority.invite_of(FOUNDER.node_id) == A.invite
    assert authority.role_of(FOUNDER.node_id) is Role.ADMIN
    assert authority.resolve(short_id(FOUNDER.node_id)) == FOUNDER.node_id
    assert authority.records() == (A.invite, A.founding)


def test_strangers_are_nobody() -> None:
    """No admission, no invite, no role."""
    authority, node = _authority(), CRYPTOS[0].node_id
    assert authority.admission(node) is None
    assert authority.invite_of(node) is None
    assert authority.role_of(node) is None
    assert authority.resolve(short_id(node)) is None


def test_what_is_known_is_stale() -> None:
    """Nothing is taken in twice."""
    authority = _authority()
    assert _reason(authority, A.invite.wire) is DropReason.STALE
    assert _reason(authority, A.founding.wire) is DropReason.STALE


def test_two_invites_under_one_key_are_one() -> None:
    """Of two invites under one key the one with the lower name stands, in either order."""
    authority = _authority()
    invite, admission = A.admit(CRYPTOS[0])
    authority.add(invite.wire)
    authority.add(admission.wire)
    key_seed = seed_of(A.label, "invite", CRYPTOS[0].node_id, Role.WORKER, 1)
    again = A.issue(key_seed, uses=7)
    assert again.key == invite.key
    authority.add(again.wire)
    kept = authority.invite(invite.key)
    assert kept == min(invite, again, key=record_name)


@pytest.mark.parametrize("role", list(Role))
def test_only_admins_and_workers_admit(role: Role) -> None:
    """A client's or observer's signature lets nobody in."""
    authority = _authority()
    for record in A.admit(CRYPTOS[0], role=role):
        authority.add(record.wire)
    invite, admission = A.admit(CRYPTOS[1], admitter=CRYPTOS[0])
    authority.add(invite.wire)
    if role.may_admit:
        assert authority.add(admission.wire) == [admission]
    else:
        assert _reason(authority, admission.wire) is DropReason.NOT_ALLOWED


def test_what_can_never_count_is_refused_unchecked() -> None:
    """Invites that no admin issued, admissions beyond their invite."""
    crypto = CountingCrypto(seed_of("counting"))
    authority = _authority(crypto)
    for record in A.admit(CRYPTOS[0]):
        authority.add(record.wire)
    invite = A.issue(TOKEN, uses=2)
    authority.add(invite.wire)
    checks = crypto.checks
    foreign = A.issue(seed_of("x"), issuer_seed=seed_of("authority", 0))
    assert _reason(authority, foreign.wire) is DropReason.NOT_ALLOWED
    for role, slot in ((Role.WORKER, 3), (Role.ADMIN, 1)):
        _, admission = A.admit(CRYPTOS[0], role=role, slot=slot, invite=invite, key_seed=TOKEN)
        assert _reason(authority, admission.wire) is DropReason.NOT_ALLOWED
    assert crypto.checks == checks


def test_forged_records_are_refused() -> None:
    """The right names under the wrong signatures."""
    authority = _authority()
    invite, admission = A.admit(CRYPTOS[0])
    assert _reason(authority, tampered(invite.wire)) is DropReason.BAD_SIGNATURE
    authority.add(invite.wire)
    assert _reason(authority, tampered(admission.wire)) is DropReason.BAD_SIGNATURE
    assert authority.add(admission.wire) == [admission]


def test_any_order_gives_the_same_members() -> None:
    """Records wait for their premises, over several steps."""
    invite_1, first = A.admit(CRYPTOS[0])
    invite_2, second = A.admit(CRYPTOS[1], admitter=CRYPTOS[0])
    invite_3, third = A.admit(CRYPTOS[2], admitter=CRYPTOS[1])
    records: tuple[Record, ...] = (invite_1, first, invite_2, second, invite_3, third)
    for order in itertools.permutations(records):
        authority = _authority()
        for record in order:
            reason = refusal(authority.add, record.wire)
            assert reason in (None, DropReason.NOT_ADMITTED)
        founding = [A.invite.wire, A.founding.wire]
        expected = sorted([*founding, *(record.wire for record in records)])
        assert sorted(record.wire for record in authority.records()) == expected
        assert authority.admission(CRYPTOS[2].node_id) == third


def test_waiting_records_are_checked_when_their_time_comes() -> None:
    """A forged one that waited is then forgotten; a still lacking one waits on."""
    authority = _authority()
    invite, admission = A.admit(CRYPTOS[0])
    _, unsponsored = A.admit(CRYPTOS[1], invite=invite, admitter=CRYPTOS[3])
    forged = tampered(admission.wire)
    for wire in (forged, unsponsored.wire, forged):
        assert _reason(authority, wire) is DropReason.NOT_ADMITTED
    assert authority.add(invite.wire) == [invite]
    assert list(authority._waiting._lacks) == [unsponsored.wire]


def test_invented_members_cost_nothing_and_fill_a_small_buffer() -> None:
    """Thousands of records without premises: no signature is checked, the oldest go."""
    crypto = CountingCrypto(seed_of("counting"))
    authority = _authority(crypto)
    checks = crypto.checks
    invite, honest = A.admit(CRYPTOS[0])
    _, invented = A.admit(CRYPTOS[1], admitter=CRYPTOS[2])
    for number in range(3 * WAITING_MAX):
        wire = invented.wire[:-64] + number.to_bytes(64, "big")
        assert _reason(authority, wire) is DropReason.NOT_ADMITTED
    assert crypto.checks == checks
    assert len(authority._waiting) == WAITING_MAX
    assert _reason(authority, honest.wire) is DropReason.NOT_ADMITTED
    assert authority.add(invite.wire) == [invite, honest]


def test_self_made_circles_admit_nobody() -> None:
    """Two strangers that admit each other wait for ever."""
    authority = _authority()
    invite = A.issue(TOKEN, uses=2)
    authority.add(invite.wire)
    for slot, (one, other) in enumerate([(0, 1), (1, 0)], start=1):
        _, admission = A.admit(
            CRYPTOS[one], slot=slot, invite=invite, key_seed=TOKEN, admitter=CRYPTOS[other]
        )
        assert _reason(authority, admission.wire) is DropReason.NOT_ADMITTED
    assert authority.admission(CRYPTOS[0].node_id) is None


def test_a_slot_is_settled_alike_in_both_orders() -> None:
    """Of two in one slot the lower hash stays; the other is no member any more."""
    invite = A.issue(TOKEN, uses=5)
    rivals = [
        A.admit(CRYPTOS[n], invite=invite, key_seed=TOKEN, admitted_at_s=WALL_S + n)[1]
        for n in range(3)
    ]
    winner, *losers = sorted(rivals, key=record_name)
    for order in itertools.permutations(rivals):
        authority = _authority()
        authority.add(invite.wire)
        evicted: list[NodeId] = []
        for admission in order:
            reason = refusal(authority.add, admission.wire)
            assert reason in (None, DropReason.NOT_ALLOWED)
            evicted += authority.take_evicted()
        assert authority.admission(winner.node) == winner
        for loser in losers:
            assert authority.admission(loser.node) is None
            assert authority.resolve(short_id(loser.node)) is None
        assert winner.node not in evicted
        assert all(node in [loser.node for loser in losers] for node in evicted)


def test_a_short_id_belongs_to_the_first_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys with one beginning: datagrams go by the first, both stay members."""
    monkeypatch.setattr("protocol.enrolment.short_id", lambda node: b"the same")
    invite = A.issue(TOKEN)
    rivals = [
        A.admit(CRYPTOS[n], invite=invite, key_seed=TOKEN, admitted_at_s=WALL_S + n)[1]
        for n in range(2)
    ]
    winner, loser = sorted(rivals, key=record_name)
    authority = _authority()
    for record in (invite, loser, winner):
        authority.add(record.wire)
    assert authority.admission(winner.node) == winner
    assert authority.resolve(b"the same") == FOUNDER.node_id


def test_a_branch_of_admins_has_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an admin of the root's decides, and what those below it do, is counted together; other
    branches, and the root key, have room of their own.
    """
    monkeypatch.setattr("protocol.shares.REVOCATIONS_MAX", 16)
    authority = _authority()
    seeds = [seed_of("branch", n) for n in range(4)]
    for number, issuer in ((0, None), (1, seeds[0]), (2, seeds[1]), (3, None)):
        token = seed_of("to branch", number)
        invite = A.issue(token, role=Role.ADMIN, issuer_seed=issuer)
        admin = SodiumCrypto(seeds[number])
        for record in A.admit(admin, role=Role.ADMIN, invite=invite, key_seed=token):
            authority.add(record.wire)

    def revokes(issuer: bytes | None, number: int) -> DropReason | None:
        subject = SodiumCrypto(seed_of("revoked", number)).node_id
        return refusal(authority.add, A.revoke(subject, issuer_seed=issuer).wire)

    assert revokes(seeds[1], 1) is None
    assert revokes(seeds[0], 2) is None
    assert [revokes(seeds[n], 10 + n) for n in range(3)] == [DropReason.TABLE_FULL] * 3
    assert [revokes(seeds[3], 20 + n) for n in range(2)] == [None, None]
    assert [revokes(None, 30 + n) for n in range(12)] == [None] * 12
    assert revokes(None, 42) is DropReason.TABLE_FULL


def test_what_fits_survives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root key decides a lot after an admin did: taken in again, in the order in which it is
    kept, nothing of it is too much.
    """
    monkeypatch.setattr("protocol.shares.INVITES_MAX", 16)
    authority = _authority()
    admin = seed_of("modest")
    for record in A.admit(SodiumCrypto(admin), role=Role.ADMIN):
        authority.add(record.wire)
    token = seed_of("modest token")
    mine = A.issue(token, issuer_seed=admin)
    for record in (mine, A.admit(CRYPTOS[0], invite=mine, key_seed=token)[1]):
        authority.add(record.wire)
    for number in range(13):
        refusal(authority.add, A.issue(seed_of("many", number)).wire)
    assert len(authority.invites()) == 16
    again = Authority(FOUNDER, A.root)
    again.load([record.wire for record in authority.records()])
    assert len(again.invites()) == 16
    assert again.admission(CRYPTOS[0].node_id) is not None


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many invites or admissions: what was there stays. Others fill no room of the root key."""
    monkeypatch.setattr("protocol.shares.INVITES_MAX", 2)
    monkeypatch.setattr("protocol.judgment.ADMISSIONS_MAX", 1)
    authority = _authority()
    invite, admission = A.admit(CRYPTOS[0])
    authority.add(invite.wire)
    assert _reason(authority, A.issue(seed_of("third")).wire) is DropReason.TABLE_FULL
    assert _reason(authority, admission.wire) is DropReason.TABLE_FULL
    assert authority.admission(FOUNDER.node_id) is not None


@pytest.mark.parametrize(("rounds", "kept"), [(4, 2), (0, 0)])
def test_shares_hold_for_what_a_judgment_brings_at_once(
    monkeypatch: pytest.MonkeyPatch, rounds: int, kept: int
) -> None:
    """A key that nobody has let in yet decides a thousand things; then an admin lets it in. What
    comes as a whole is held to the same shares. And where one such key wakes the next, round after
    round, in the end nobody is heard who had no power before.
    """
    monkeypatch.setattr("protocol.shares.REVOCATIONS_MAX", 16)
    monkeypatch.setattr("protocol.authority.JUDGED_ANEW_MAX", rounds)
    rogue, puppet = seed_of("rogue"), seed_of("puppet")
    token = seed_of("to the rogue")
    invite = A.issue(token, role=Role.ADMIN)
    first = A.admit(SodiumCrypto(rogue), role=Role.ADMIN, invite=invite, key_seed=token)
    grant = A.grant(SodiumCrypto(puppet).node_id, rogue)
    _, later = A.admit(SodiumCrypto(puppet), invite=invite, admitter=SodiumCrypto(rogue))
    acts = [
        A.revoke(SodiumCrypto(seed_of("victim", n)).node_id, issuer_seed=puppet) for n in range(40)
    ]
    authority = _authority()
    arriving: list[Record] = [*first, grant, *acts, later, *acts]
    for record in arriving:
        refusal(authority.add, record.wire)
    newcomer = Authority(FOUNDER, A.root)
    whole: list[Record] = [A.invite, A.founding, *first, grant, later, *acts]
    newcomer.load([record.wire for record in whole])
    for one in (authority, newcomer):
        counting = [act for act in acts if one.is_counting(act.wire)]
        assert len(counting) == kept
        one.add(A.revoke(SodiumCrypto(rogue).node_id).wire)


def test_of_equals_the_stricter_ends_an_invite() -> None:
    """Nobody softens an equal's revocation by another one of the same invite."""
    authority = _authority()
    admins = [seed_of("equal", n) for n in range(2)]
    for admin in admins:
        for record in A.admit(SodiumCrypto(admin), role=Role.ADMIN):
            authority.add(record.wire)
    invite, guest = A.admit(CRYPTOS[0])
    for record in (invite, guest):
        authority.add(record.wire)
    for admin, slot in zip(admins, (0, 1), strict=True):
        act = A.revoke(invite.key, Target.INVITE, issuer_seed=admin, honoured_slot=slot)
        refusal(authority.add, act.wire)
    assert authority.admission(guest.node) is not None  # the invite is the root key's: no effect
    mine = A.issue(seed_of("mine"), issuer_seed=admins[0])
    _, other = A.admit(CRYPTOS[1], invite=mine, key_seed=seed_of("mine"))
    for record in (mine, other):
        authority.add(record.wire)
    for admin, slot in ((admins[0], 0), (admins[1], 1), (admins[0], 0)):
        act = A.revoke(mine.key, Target.INVITE, issuer_seed=admin, honoured_slot=slot)
        refusal(authority.add, act.wire)
        assert authority.admission(other.node) is None
