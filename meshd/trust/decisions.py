"""The one place where this machine's owner decides about the mesh: signed, counted, put in force.

The key that decides is the root key, if it is in this home, or the node's own, if the node is an
admin. Every decision is one of that key's numbered acts (`protocol/records.py`).
"""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeVar

import trio

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import node_seed, read_key
from meshd.trust.mesh import MeshFile, note_acts, read_mesh
from protocol.authority import Authority
from protocol.crypto import public_key_of
from protocol.effects import Issued
from protocol.errors import DropReason, Refused
from protocol.events import Event, RecordIssued
from protocol.issuing import Turn, make_keyed_admission, turn_after
from protocol.records import Act, Admission, ApiKey, Grant, Invite, Revocation, signer_of

IN_FORCE_S: Final = 5.0
"""For a decision to be on disk and in force at this node."""
AWAITED_MAX: Final = 32_768

_Act = TypeVar("_Act", bound=Act)

_KINDS: Final[Mapping[type, str]] = {
    Invite: "invites",
    Admission: "admissions",
    Grant: "grants",
    Revocation: "revocations",
    ApiKey: "API keys",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Decider:
    """A key that may decide in this mesh."""

    seed: bytes = dataclasses.field(repr=False)
    key: bytes
    """Its public half."""
    mesh: MeshFile


class Decisions:
    """Signs what the owner decides, and waits until it is in force at this node."""

    def __init__(
        self,
        home: Home,
        authority: Authority,
        give: Callable[[Event], bool],
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`give` puts an event before the node; `caught_up` waits until it knows what was decided
        while it was away (a few seconds).
        """
        self._caught_up = caught_up
        self._home = home
        self._authority = authority
        self._give = give
        self._turns: dict[bytes, Turn] = {}
        """What each key signs next, also while the node has not yet taken in what it signed."""
        self._awaited: dict[bytes, trio.Event] = {}
        self._refusals: dict[bytes, str] = {}

    async def ready(self) -> Decider:
        """The same as `decider`, once this node knows what that key has decided before: an act
        names the one before it.
        """
        await self._caught_up()
        return self.decider()

    def decider(self) -> Decider:
        """The key of this home that may decide. Raises UserError when it has none."""
        mesh = read_mesh(self._home)
        if mesh is None:
            raise UserError("this node is in no mesh")
        root = read_key(self._home.root_key, self._home.passphrase)
        if root is not None and public_key_of(root) == mesh.root:
            return Decider(root, mesh.root, mesh)
        own = node_seed(self._home)
        if self._authority.may_issue(public_key_of(own)):
            return Decider(own, public_key_of(own), mesh)
        raise UserError(
            "only admins may do that: run it on an admin's machine, or have this one made an admin "
            "there (meshd grant NODE)"
        )

    def sign(self, decider: Decider, make: Callable[[Turn], _Act]) -> _Act:
        """Sign the next act, which is counted on disk before anybody hears of it.

        Raises UserError: it would not count. Such an act is never signed away: the next one would
        name it as the one before, and nobody would have it.
        """
        known = self._authority.next_turn(decider.key)
        turn = max(known, self._turns.get(decider.key, known), key=lambda turn: turn.act)
        turn = max(turn, Turn(decider.mesh.acts + 1, turn.previous), key=lambda turn: turn.act)
        act = make(turn)
        self.try_out(act)
        note_acts(self._home, turn.act)
        self._turns[decider.key] = turn_after(act)
        return act

    def try_out(self, act: Act, after: Iterable[Admission] = ()) -> Authority:
        """What this node would know with this act, and these admissions before it. Raises
        UserError: the act would not count.
        """
        trial = self._authority.fork()
        for admission in after:
            try:
                trial.add(admission.wire)
            except Refused as refused:
                if refused.reason is DropReason.TABLE_FULL:
                    raise UserError(_why_not(admission, refused)) from refused
        try:
            trial.add(act.wire)
        except Refused as refused:
            raise UserError(_why_not(act, refused)) from refused
        return trial

    def issue(self, act: Act) -> None:
        """Put an act before the node, without waiting. Raises UserError: too busy."""
        if not self._give(RecordIssued(act.wire)):
            self._turns.pop(act.issuer, None)
            raise UserError("this node is too busy; try again")

    async def put(self, record: Act | Admission) -> None:
        """Put a record before the node and wait until it is in force. Raises UserError."""
        try:
            await self._put(record.wire)
        except UserError:
            self._turns.pop(signer_of(record), None)
            raise

    async def _put(self, wire: bytes) -> None:
        if len(self._awaited) >= AWAITED_MAX:
            raise UserError("this node is too busy; try again")
        done = self._awaited.setdefault(wire, trio.Event())
        try:
            if not self._give(RecordIssued(wire)):
                raise UserError("this node is too busy; try again")
            with trio.move_on_after(IN_FORCE_S):
                await done.wait()
                refusal = self._refusals.pop(wire, "")
                if refusal:
                    raise UserError(f"that does not count in this mesh ({refusal})")
                return
            raise UserError("the node did not take it in; its log may say why")
        finally:
            self._awaited.pop(wire, None)
            self._refusals.pop(wire, None)

    def note(self, issued: Issued) -> None:
        """The node has taken a record in, or refused it."""
        done = self._awaited.get(issued.wire)
        if done is not None:
            self._refusals[issued.wire] = issued.refusal
            done.set()

    def admit_again(self, decider: Decider, admission: Admission) -> Admission:
        """An admission of our own, that stays when whoever gave the first one goes."""
        return make_keyed_admission(
            decider.seed,
            self._authority.mesh,
            admission.proof,
            role=admission.role,
            slot=admission.slot,
            admitted_at_s=admission.admitted_at_s,
        )


def _why_not(act: Act | Admission, refused: Refused) -> str:
    if refused.reason is DropReason.TABLE_FULL:
        kind = _KINDS[type(act)]
        return (
            f"this mesh remembers no more {kind} of this admin, revoked and expired ones among "
            "them; let another admin do it, or the holder of the root key"
        )
    return f"that would not count in this mesh ({refused})"
