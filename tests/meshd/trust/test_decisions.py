"""What this machine's owner decides: signed in order, and only if it counts."""

import pathlib
from collections.abc import Mapping
from typing import Any, cast

import pytest
import trio

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.commands import TrustCommands
from meshd.trust.decisions import Decisions
from meshd.trust.keys import write_key
from meshd.trust.mesh import MeshFile, write_mesh
from meshd.view import View
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.effects import Issued
from protocol.events import Event, RecordIssued
from protocol.identity import NodeId, key_text
from protocol.issuing import make_grant
from protocol.records import Record, Role, Target, record_name
from tests.helpers.nodes import Authorities, refusal, seed_of

ADMIN, GUEST, OTHER = (seed_of("decides", name) for name in ("admin", "guest", "other"))
ADMINS, GUESTS, OTHERS = (SodiumCrypto(seed).node_id for seed in (ADMIN, GUEST, OTHER))


class _Names:
    """Of members; here their ids do."""

    def name(self, node: NodeId) -> str:
        return key_text(node)[:8]


class Owner:
    """A machine with the mesh's root key, whose node takes in at once what is put before it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.home = Home(path)
        self.home.create()
        self.book = Authorities("decides")
        self.authority = Authority(self.book.founder, self.book.root)
        self.take(self.book.invite, self.book.founding)
        write_key(self.home, self.home.root_key, self.book.root_seed)
        write_key(self.home, self.home.node_key, seed_of("decides", "node", 0))
        write_mesh(
            self.home,
            MeshFile(
                root=self.book.root,
                mesh_secret=bytes(32),
                records=(self.book.invite.wire, self.book.founding.wire),
                acts=1,
            ),
        )
        self.restart()

    def restart(self) -> None:
        """With what is on disk, and what the node knows."""
        self.decisions = Decisions(self.home, self.authority, self._give, trio.lowlevel.checkpoint)
        self.commands = TrustCommands(
            self.book.founder.node_id,
            self.authority,
            cast("View", _Names()),
            self.decisions,
            lambda *_, **__: None,
        )

    def take(self, *records: Record) -> None:
        """What gossip has brought."""
        for record in records:
            self.authority.add(record.wire)

    def grant(self, node: NodeId) -> None:
        """As `meshd grant` does."""
        trio.run(self.commands.grant, {"node": key_text(node)})

    def revoke(self, key: bytes, *, is_cascade: bool = False) -> Mapping[str, Any]:
        """As `meshd revoke` does."""
        asked = {"subject": key_text(key), "cascade": is_cascade}
        return trio.run(self.commands.revoke, asked)

    def _give(self, event: Event) -> bool:
        assert isinstance(event, RecordIssued)
        refused = refusal(self.authority.add, event.wire)
        self.decisions.note(Issued(event.wire, str(refused or "")))
        return True


@pytest.fixture
def owner(tmp_path: pathlib.Path) -> Owner:
    return Owner(tmp_path)


def _guest_of_an_admin(owner: Owner, *, uses: int = 1) -> bytes:
    """A worker that came by the invite of an admin, whose key is returned."""
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN), role=Role.ADMIN))
    invite = owner.book.issue(seed_of("by the admin"), issuer_seed=ADMIN, uses=uses)
    _, admission = owner.book.admit(
        SodiumCrypto(GUEST), invite=invite, key_seed=seed_of("by the admin")
    )
    owner.take(invite, admission)
    return invite.key


def test_a_refused_act_breaks_no_chain(owner: Owner) -> None:
    """What would not count is never signed away: the next act follows the last that counts."""
    before = owner.authority.last_act(owner.book.root)
    decider = owner.decisions.decider()
    foreign = Authorities("another mesh").mesh
    with pytest.raises(UserError, match="would not count"):
        owner.decisions.sign(
            decider, lambda turn: make_grant(decider.seed, foreign, subject=OTHERS, turn=turn)
        )
    act = owner.decisions.sign(
        decider,
        lambda turn: make_grant(decider.seed, owner.book.mesh, subject=OTHERS, turn=turn),
    )
    assert act.previous == before
    assert act.act == 2


def test_numbers_go_on_after_a_crash(owner: Owner) -> None:
    """An act that never came out is counted on disk: its number is not used twice."""
    decider = owner.decisions.decider()

    def grant() -> int:
        act = owner.decisions.sign(
            decider,
            lambda turn: make_grant(decider.seed, owner.book.mesh, subject=OTHERS, turn=turn),
        )
        return act.act

    assert grant() == 2
    owner.restart()
    decider = owner.decisions.decider()
    assert grant() == 3


def test_whom_a_nearer_key_makes_an_admin_rests_on_no_farther_one(owner: Owner) -> None:
    """The admin by whose invite it came can end that invite as it likes: it stays a member."""
    key = _guest_of_an_admin(owner)
    owner.grant(GUESTS)
    owner.take(owner.book.revoke(key, Target.INVITE, issuer_seed=ADMIN))
    assert owner.authority.role_of(GUESTS) is Role.ADMIN
    owner.revoke(ADMINS, is_cascade=True)
    assert owner.authority.role_of(ADMINS) is None
    assert owner.authority.role_of(GUESTS) is Role.ADMIN
    with pytest.raises(UserError, match="is an admin already"):
        owner.grant(GUESTS)


def test_a_nearer_key_may_grant_what_a_farther_one_has_granted(owner: Owner) -> None:
    """So that the power rests on the nearer one, whatever becomes of the other."""
    _guest_of_an_admin(owner)
    owner.take(owner.book.grant(GUESTS, ADMIN))
    assert owner.authority.level_of(GUESTS) == 3
    owner.grant(GUESTS)
    assert owner.authority.level_of(GUESTS) == 1
    owner.revoke(ADMINS, is_cascade=True)
    assert owner.authority.role_of(GUESTS) is Role.ADMIN


def test_an_admins_admins_outlive_it(owner: Owner) -> None:
    """A plain revocation honours its grants, and whom only it had let in is let in again."""
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN), role=Role.ADMIN))
    owner.take(*owner.book.admit(SodiumCrypto(GUEST), admitter=SodiumCrypto(ADMIN)))
    owner.take(owner.book.grant(GUESTS, ADMIN))
    assert owner.authority.role_of(GUESTS) is Role.ADMIN
    assert owner.revoke(ADMINS)["evicted"] == [key_text(ADMINS)[:8]]
    assert owner.authority.role_of(GUESTS) is Role.ADMIN


def test_nobody_goes_along_unasked(owner: Owner) -> None:
    """Without a cascade whom the revoked one had let in stays; a decision that takes others along
    is refused by name.
    """
    _guest_of_an_admin(owner)
    owner.take(*owner.book.admit(SodiumCrypto(OTHER), admitter=SodiumCrypto(ADMIN)))
    answer = owner.revoke(ADMINS)
    assert answer["evicted"] == [key_text(ADMINS)[:8]]
    assert owner.authority.role_of(GUESTS) is owner.authority.role_of(OTHERS) is Role.WORKER


def test_a_revocation_names_the_last_act_that_it_honours(owner: Owner) -> None:
    """So nothing that the revoked one signs afterwards holds."""
    _guest_of_an_admin(owner)
    last = owner.authority.last_act(ADMINS)
    owner.revoke(ADMINS)
    revocation = owner.authority.revocation_of(ADMINS)
    assert revocation is not None
    assert revocation.honoured_act == last
    late = owner.book.issue(seed_of("afterwards"), issuer_seed=ADMIN)
    assert record_name(late) != last
    assert refusal(owner.authority.add, late.wire) is not None


def test_who_was_away_decides_nothing_before_it_has_caught_up(owner: Owner) -> None:
    """An act that knows less than its own key has signed would begin a second chain."""

    async def catches_up() -> None:
        owner.take(act)

    act = owner.book.grant(OTHERS)
    decisions = Decisions(owner.home, owner.authority, lambda event: True, catches_up)

    async def main() -> None:
        decider = await decisions.ready()
        mesh = owner.book.mesh
        following = decisions.sign(
            decider, lambda turn: make_grant(decider.seed, mesh, subject=GUESTS, turn=turn)
        )
        assert following.previous == record_name(act)

    trio.run(main)


def test_no_sleeping_decision_wakes_unseen(owner: Owner) -> None:
    """An admin's revocation of its equal has no effect; who would raise that admin, by granting or
    by letting it in again, is told whom that would put out.
    """
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN), role=Role.ADMIN))
    owner.take(*owner.book.admit(SodiumCrypto(OTHER), role=Role.ADMIN))
    owner.take(owner.book.revoke(OTHERS, issuer_seed=ADMIN))
    assert owner.authority.role_of(OTHERS) is Role.ADMIN
    with pytest.raises(UserError, match="would be out"):
        owner.grant(ADMINS)
    assert owner.authority.level_of(ADMINS) == 2
    assert owner.authority.role_of(OTHERS) is Role.ADMIN


def test_a_grant_that_sleeps_is_named_and_can_be_taken_back(owner: Owner) -> None:
    """It names a key that is no member: its power would begin when it joins."""
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN), role=Role.ADMIN))
    owner.take(owner.book.grant(OTHERS, ADMIN))
    with pytest.raises(UserError, match=key_text(OTHERS)):
        owner.revoke(ADMINS)
    owner.revoke(OTHERS)
    owner.revoke(ADMINS)
    owner.take(*owner.book.admit(SodiumCrypto(GUEST)))
    refusal(owner.authority.add, owner.book.admit(SodiumCrypto(OTHER))[1].wire)
    assert owner.authority.role_of(OTHERS) is None
    assert not owner.authority.may_issue(OTHERS)


def test_what_was_revoked_plainly_can_be_revoked_whole(owner: Owner) -> None:
    """By its id: it is no member any more."""
    _guest_of_an_admin(owner)
    owner.revoke(ADMINS)
    assert owner.authority.role_of(GUESTS) is Role.WORKER
    owner.revoke(ADMINS, is_cascade=True)
    assert owner.authority.role_of(GUESTS) is None


def test_what_has_no_effect_is_no_success(owner: Owner) -> None:
    """A cascade over what somebody nearer has revoked plainly, and a grant by who is too far away:
    both are refused, in words.
    """
    key = _guest_of_an_admin(owner)
    owner.revoke(key)
    owner.home.root_key.unlink()
    write_key(owner.home, owner.home.node_key, ADMIN)
    owner.restart()
    with pytest.raises(UserError, match="nearer to the root key has revoked that already"):
        owner.revoke(key, is_cascade=True)
    assert owner.authority.role_of(GUESTS) is Role.WORKER
    owner.grant(GUESTS)
    assert owner.authority.role_of(GUESTS) is Role.ADMIN


def test_who_is_too_far_from_the_root_makes_no_admins(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so, where the grant would count and do nothing."""
    monkeypatch.setattr("protocol.judgment.LEVELS_MAX", 3)
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN), role=Role.ADMIN))
    owner.take(*owner.book.admit(SodiumCrypto(GUEST)))
    owner.home.root_key.unlink()
    write_key(owner.home, owner.home.node_key, ADMIN)
    owner.restart()
    with pytest.raises(UserError, match="too far from the root key"):
        owner.grant(GUESTS)
    assert owner.authority.role_of(GUESTS) is Role.WORKER


def test_nobody_takes_the_slot_of_a_revoked_invites_guest(owner: Owner) -> None:
    """Those whom workers let in are let in by the key that revokes: a worker who still has the
    token finds no name for its puppet by which that would come before them.
    """
    owner.take(*owner.book.admit(SodiumCrypto(ADMIN)))
    token = seed_of("of a hundred")
    invite = owner.book.issue(token, uses=100)
    rogue = SodiumCrypto(ADMIN)
    _, guest = owner.book.admit(
        SodiumCrypto(GUEST), invite=invite, key_seed=token, admitter=rogue, slot=1
    )
    owner.take(invite, guest)
    owner.revoke(invite.key)
    for number in range(32):
        puppet = SodiumCrypto(seed_of("puppet", number))
        _, admission = owner.book.admit(
            puppet, invite=invite, key_seed=token, admitter=rogue, slot=1
        )
        refusal(owner.authority.add, admission.wire)
    assert owner.authority.role_of(GUESTS) is Role.WORKER


def test_a_whole_id_means_an_invite_too(owner: Owner) -> None:
    """And nobody hides behind an invite whose key is the own id."""
    key = _guest_of_an_admin(owner)
    assert owner.revoke(key)["kind"] == "invite"
    invite = owner.book.issue(ADMIN, issuer_seed=ADMIN)
    assert invite.key == ADMINS
    owner.take(invite)
    assert owner.revoke(ADMINS)["kind"] == "node"
