"""The one place for what the control socket may ask about trust: grant, revoke, list invites."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from meshd.control import Handler, argument
from meshd.failures import ExitCode, UserError
from meshd.trust.decisions import Decider, Decisions
from meshd.view import View
from protocol.authority import Authority
from protocol.identity import NODE_ID_BYTES, NodeId, key_from_text, key_text
from protocol.issuing import Turn, make_grant, make_revocation
from protocol.records import NO_ACT, Admission, Grant, Invite, Revocation, Target

SPREAD_S: Final = 2.0
"""What must be known before a revocation gets so much time to go round."""
ID_CHARS_MIN: Final = 8

_TOO_NEAR: Final = (
    "{} is as near to the root key as the admin here, or nearer, and equals do not revoke each "
    "other: do it where the root key is, or on the machine of whoever made that one an admin"
)


class TrustCommands:
    """Handlers by name, for `serve_control`."""

    def __init__(
        self,
        own: NodeId,
        authority: Authority,
        view: View,
        decisions: Decisions,
        note: Callable[..., None],
    ) -> None:
        """`note` writes to the audit log."""
        self._note = note
        self._own = own
        self._authority = authority
        self._view = view
        self._decisions = decisions

    def handlers(self) -> dict[str, Handler]:
        """What may be asked."""
        return {"grant": self.grant, "revoke": self.revoke, "invites": self.invites}

    async def invites(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """All invites of the mesh: `{"invites": [...]}`, the newest first."""
        del arguments
        used = self._authority.slots_taken()
        rows = [self._row(invite, used.get(invite.key, 0)) for invite in self._authority.invites()]
        return {"invites": sorted(rows, key=lambda row: -int(row["expires_at"]))}

    def _row(self, invite: Invite, used: int) -> Mapping[str, Any]:
        return {
            "invite": key_text(invite.key),
            "role": invite.role.name.lower(),
            "owner": invite.owner,
            "trusted": invite.is_trusted,
            "uses": invite.uses,
            "used": used,
            "expires_at": invite.expires_at_s,
            "issuer": self._name(invite.issuer),
            "revoked": self._authority.revocation_of(invite.key, Target.INVITE) is not None,
        }

    def _name(self, key: bytes) -> str:
        """Who has a key, for people."""
        return "root" if self._authority.level_of(key) == 0 else self._view.name(NodeId(key))

    async def grant(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a member an admin: `{"node", "name"}`.

        It is let in again by the key that grants: an admin's membership rests on these two, and on
        no invite, nor on whoever happened to admit it, whom it may have to revoke one day.
        """
        node = self._node(argument(arguments, "node", str))
        decider = await self._decisions.ready()
        authority, level = self._authority, self._authority.level_of(decider.key)
        admission = authority.admission(node)
        is_near = authority.may_issue(node) and authority.level_of(node) <= level + 1
        if admission is None or decider.key == node or is_near:
            raise UserError(f"{self._view.name(node)} is an admin already")
        again = self._again(decider, [admission])

        def make(turn: Turn) -> Grant:
            return make_grant(decider.seed, authority.mesh, subject=node, turn=turn)

        trial = self._decisions.try_out(make(authority.next_turn(decider.key)), again)
        if not trial.may_issue(node):
            raise UserError(
                "whom the admin here would make an admin is too far from the root key to be one: "
                "do it on a machine that is nearer to it"
            )
        lost = [self._view.name(each) for each in self._lost(trial)]
        if lost:
            raise UserError(
                f"{', '.join(lost[:8])} would be out, or be admins no more, for that is what "
                f"{self._view.name(node)} has decided and would now be near enough to decide"
            )
        for admission in again:
            await self._decisions.put(admission)
        grant = self._decisions.sign(decider, make)
        await self._decisions.put(grant)
        self._note("admin.granted", node=key_text(node))
        return {"node": key_text(node), "name": self._view.name(node)}

    async def revoke(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take back a membership or an invite: `{"kind", "id", "evicted": [names],
        "restored": [names]}`.

        Without `cascade` stay those who came by it, or were let in by it, before.
        """
        text = argument(arguments, "subject", str)
        is_cascade = bool(arguments.get("cascade"))
        invites = [i for i in self._authority.invites() if _means(text, i.key)]
        nodes = self._nodes(text) or ([] if invites else _whole_key(text))
        # Nobody hides behind an invite whose key is a node's.
        invites = [invite for invite in invites if invite.key not in nodes]
        if len(nodes) + len(invites) != 1:
            raise self._not_one(text, nodes, invites)
        if invites:
            return await self._revoke_invite(invites[0], is_cascade=is_cascade)
        return await self._revoke_node(nodes[0], is_cascade=is_cascade)

    async def _revoke_invite(self, invite: Invite, *, is_cascade: bool) -> Mapping[str, Any]:
        decider = await self._decisions.ready()
        slot = 0 if is_cascade else self._authority.last_slot(invite.key)
        if self._authority.level_of(invite.issuer) < self._authority.level_of(decider.key):
            raise UserError(_TOO_NEAR.format("the issuer of that invite"))
        guests = self._authority.admitted_by_members(invite.key)
        again = [] if is_cascade else self._again(decider, guests)
        return await self._put(
            decider,
            Target.INVITE,
            invite.key,
            is_cascade=is_cascade,
            honoured_slot=slot,
            again=again,
        )

    async def _revoke_node(self, node: NodeId, *, is_cascade: bool) -> Mapping[str, Any]:
        if node == self._own:
            raise UserError("a node does not revoke itself; meshd leave gives its membership up")
        decider = await self._decisions.ready()
        is_admin = self._authority.may_issue(node)
        if is_admin and self._authority.level_of(node) <= self._authority.level_of(decider.key):
            raise UserError(_TOO_NEAR.format(self._view.name(node)))
        dormant = [] if is_cascade else self._authority.dormant_grants(node)
        if dormant:
            raise UserError(
                f"{self._view.name(node)} has made admins of keys that have no power yet, but "
                f"would get it later: {', '.join(key_text(key) for key in dormant[:4])}; revoke "
                "those first, or use --cascade"
            )
        guests = [a for a in self._authority.admitted_by(node) if a.node != decider.key]
        again = [] if is_cascade else self._again(decider, guests)
        honoured = NO_ACT if is_cascade else self._authority.last_act(node)
        return await self._put(
            decider, Target.NODE, node, is_cascade=is_cascade, honoured_act=honoured, again=again
        )

    def _again(self, decider: Decider, given: Sequence[Admission]) -> list[Admission]:
        """Those whom this key has not let in itself, let in by it: so that they stay."""
        return [
            self._decisions.admit_again(decider, admission)
            for admission in given
            if not self._authority.has_admitted(decider.key, admission.node)
        ]

    def _lost(self, trial: Authority) -> list[NodeId]:
        """Who would be no member any more, or an admin no more."""
        return [
            node
            for node in self._authority.members()
            if trial.admission(node) is None
            or (self._authority.may_issue(node) and not trial.may_issue(node))
        ]

    async def _put(
        self,
        decider: Decider,
        target: Target,
        subject: bytes,
        *,
        is_cascade: bool,
        honoured_act: bytes = NO_ACT,
        honoured_slot: int = 0,
        again: Sequence[Admission] = (),
    ) -> Mapping[str, Any]:
        """Revoke, unless that does to others what nobody asked for; `again`: who is let in again
        before, which is given time to go round.
        """

        def make(turn: Turn) -> Revocation:
            return make_revocation(
                decider.seed,
                self._authority.mesh,
                target=target,
                subject=subject,
                turn=turn,
                honoured_act=honoured_act,
                honoured_slot=honoured_slot,
            )

        trial = self._decisions.try_out(make(self._authority.next_turn(decider.key)), again)
        held = trial.revocation_of(subject, target)
        is_ours = held is not None and trial.level_of(held.issuer) >= trial.level_of(decider.key)
        if is_cascade and not is_ours:
            raise UserError(
                "somebody nearer to the root key has revoked that already, without a cascade, and "
                "has the last word on it: do it there, or where the root key is"
            )
        lost = self._lost(trial)
        evicted = [node for node in lost if trial.admission(node) is None]
        if self._own in evicted:
            raise UserError(
                "that would take this very node out of the mesh, for its own membership rests on "
                "that: decide on another admin's machine, or where the root key is"
            )
        others = [self._view.name(node) for node in lost if node != subject]
        if others and not is_cascade:
            raise UserError(
                f"others would go with it, or be admins no more: {', '.join(others[:8])}; if that "
                "is meant: --cascade"
            )
        restored = [node for node in trial.members() if self._authority.admission(node) is None]
        answer = {
            "kind": target.name.lower(),
            "id": key_text(subject),
            "evicted": [self._view.name(node) for node in evicted],
            "restored": [self._view.name(node) for node in restored],
        }
        for admission in again:
            await self._decisions.put(admission)
        if again:
            await trio.sleep(SPREAD_S)
        await self._decisions.put(self._decisions.sign(decider, make))
        self._note(
            "revocation.made",
            target=target.name.lower(),
            subject=key_text(subject),
            evicted=len(evicted),
        )
        return answer

    # ---- who is meant ----

    def _node(self, text: str) -> NodeId:
        """The member that a name or id means. Raises UserError."""
        nodes = self._nodes(text)
        if len(nodes) != 1:
            raise self._not_one(text, nodes, [])
        return nodes[0]

    def _nodes(self, text: str) -> list[NodeId]:
        members = self._authority.members()
        exact = [n for n in members if key_text(n) == text.lower()]
        return exact or [n for n in members if self._view.name(n) == text or _means(text, n)]

    def _not_one(self, text: str, nodes: list[NodeId], invites: list[Invite]) -> UserError:
        if not nodes and not invites:
            return UserError(
                f"no member and no invite is called {text[:64]!a}: give a name or an id (or its "
                f"first {ID_CHARS_MIN} characters) from meshd nodes --all or meshd invites",
                ExitCode.WRONG_USAGE,
            )
        ids = [key_text(n) for n in nodes] + [key_text(i.key) for i in invites]
        return UserError(f"{text[:64]!a} means several: {', '.join(ids[:8])}; give one of the ids")


def _whole_key(text: str) -> list[NodeId]:
    """The key that a whole id means, also of who is no member, or not yet, or not any more."""
    try:
        key = key_from_text(text)
    except ValueError:
        return []
    return [NodeId(key)] if len(key) == NODE_ID_BYTES else []


def _means(text: str, key: bytes) -> bool:
    return len(text) >= ID_CHARS_MIN and key_text(key).startswith(text.lower())
