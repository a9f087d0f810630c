"""The one place for what the control socket may ask of a running daemon."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard

import trio

from meshd import clock
from meshd.control import Handler, Report, Streaming, argument
from meshd.event_log import EVENTS_KEPT, Event, EventLog
from meshd.failures import ExitCode, UserError
from meshd.home import Home
from meshd.joining import check_joinable, give_up, join, read_token
from meshd.local_models import local_row
from meshd.story import STORIES_MAX
from meshd.trust.keys import new_seed
from meshd.trust.root_key import ACTS
from meshd.trust.token import SEEDS_MAX, Token, encode_token
from protocol.crypto import public_key_of
from protocol.identity import Address, key_text
from protocol.issuing import Turn, make_invite
from protocol.records import OWNER_CHARS_MAX, Invite, Role

if TYPE_CHECKING:
    from meshd.running import Running

EXPIRES_S_MAX = 366 * 86_400
USES_MAX = 1_000_000
FOLLOWERS_MAX: Final = 16
"""Commands that follow the events; with those that wait for jobs they leave room for others."""
EVENTS_SILENCE_S: Final = 15.0
"""Who follows hears at least so often, be it that nothing happened; that is how it is noticed
that either end has gone."""


class Commands:
    """Handlers by name, for `serve_control`."""

    def __init__(self, home: Home, running: "Running") -> None:
        self._home = home
        self._running = running
        self._followers = 0

    def handlers(self) -> dict[str, Handler | Streaming]:
        """What may be asked."""
        running = self._running
        return {
            "status": self.status,
            "nodes": self.nodes,
            "models": self.models,
            "events": Streaming(self.events, timeout_s=math.inf),
            "gateway": self.gateway,
            "explain": self.explain,
            "invite": self.invite,
            "join": self.join,
            "leave": self.leave,
            **running.trust_commands.handlers(),
            "root": self.root,
            **running.draining.handlers(),
            **running.job_commands.handlers(),
            **running.key_commands.handlers(),
        }

    async def status(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """How this node is doing."""
        del arguments
        return self._running.status()

    async def gateway(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """How a command of the owner reaches the gateway."""
        del arguments
        return self._running.gateway_for_owner()

    async def nodes(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The members as this node sees them."""
        return {"nodes": self._running.nodes(include_all=bool(arguments.get("all")))}

    async def models(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The models of the mesh, or of this node alone, also those that it cannot offer."""
        running = self._running
        if not arguments.get("local"):
            return {"models": running.models()}
        standings = running.local_models.standings()
        return {"models": [local_row(standing, running.name) for standing in standings]}

    async def events(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        """The last events; with `follow` these and all later ones, while one listens."""
        recent = argument(arguments, "recent", int)
        if not 0 <= recent <= EVENTS_KEPT:
            raise UserError(f"at most the last {EVENTS_KEPT} events are kept", ExitCode.WRONG_USAGE)
        log = self._running.view.events
        if not arguments.get("follow"):
            return {"events": log.recent(recent)}
        if self._followers >= FOLLOWERS_MAX:
            raise UserError(f"{FOLLOWERS_MAX} commands follow the events already; end one of them")
        self._followers += 1
        try:
            await _follow(log, log.id_before(recent), report)
        finally:
            self._followers -= 1

    async def explain(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Why a request went where it went."""
        request_id = argument(arguments, "request", str)
        told = self._running.explain(request_id)
        if told is None:
            raise UserError(
                f"this node remembers no request {request_id[:64]!a}: of those that came to its "
                f"own gateway it knows the last {STORIES_MAX:,} since it started; an id is "
                "in an answer's header x-meshd-request"
            )
        return told

    async def invite(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Issue an invite: `{"token", "invite"}`."""
        expires_s = argument(arguments, "expires_s", int)
        uses = argument(arguments, "uses", int)
        if not 1 <= expires_s <= EXPIRES_S_MAX or not 1 <= uses <= USES_MAX:
            raise UserError("the invite's expiry or number of uses is out of range")
        await self._running.decisions.ready()
        token = self.make_token(expires_s=expires_s, uses=uses, **invited(arguments))
        return {"token": encode_token(token), "invite": key_text(token.invite.key)}

    def make_token(
        self,
        *,
        expires_s: int,
        uses: int,
        is_trusted: bool = False,
        owner: str | None = None,
        role: Role = Role.WORKER,
    ) -> Token:
        """Issue an invite and let gossip carry its record. Raises UserError: no admin."""
        decisions = self._running.decisions
        decider = decisions.decider()
        invite_seed = new_seed()

        def make(turn: Turn) -> Invite:
            return make_invite(
                decider.seed,
                decider.mesh.mesh,
                key=public_key_of(invite_seed),
                turn=turn,
                role=role,
                expires_at_s=clock.wall_s() + expires_s,
                uses=uses,
                is_trusted=is_trusted,
                owner=owner or self._running.owner,
            )

        invite = decisions.sign(decider, make)
        decisions.issue(invite)
        self._running.audit.note(
            "invite.made",
            invite=key_text(invite.key),
            role=invite.role.name.lower(),
            uses=invite.uses,
            expires_at=invite.expires_at_s,
            trusted=invite.is_trusted,
            owner=invite.owner,
        )
        return Token(
            root=decider.mesh.root,
            mesh_secret=decider.mesh.mesh_secret,
            invite_seed=invite_seed,
            invite=invite,
            seeds=self._seeds(),
        )

    def _seeds(self) -> tuple[Address, ...]:
        """This node's addresses, then one of each of a few others."""
        seeds = dict.fromkeys(self._running.own_addresses)
        members = self._running.node.members
        for node in members.present():
            alive = members.alive_record(node)
            if alive is not None and len(seeds) < SEEDS_MAX:
                seeds[alive.addresses[0]] = None
        return tuple(seeds)[:SEEDS_MAX]

    async def join(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Join another mesh, if this one never had a second member; the node then starts anew."""
        token = read_token(argument(arguments, "token", str))
        has_company = self._running.view.has_company
        is_needed = check_joinable(self._home, token, has_company=has_company)
        if is_needed:
            await join(self._home, token, self._running.memory)
            self._running.audit.note("mesh.joined", mesh=key_text(token.mesh))
            self._running.end(restart=True)
        return {"mesh": key_text(token.mesh), "changed": is_needed}

    async def leave(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say goodbye, forget the mesh, and stop."""
        del arguments
        await self._running.stopping.say_goodbye()
        async with self._running.memory:
            mesh = give_up(self._home)
            self._running.audit.note("mesh.left", mesh=mesh)
            self._running.end(restart=False, keep_memory=False)
        return {"mesh": mesh}

    async def root(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Export, import or remove the mesh's root key: `{"mesh", "file"}`."""
        act, file = argument(arguments, "act", str), argument(arguments, "file", str)
        passphrase = argument(arguments, "passphrase", str).encode(errors="surrogateescape")
        path = pathlib.Path(file)
        if act not in ACTS or not path.is_absolute() or not passphrase:
            raise UserError("the request names no act, file or passphrase", ExitCode.WRONG_USAGE)
        async with self._running.memory:
            mesh = await trio.to_thread.run_sync(ACTS[act].do, self._home, path, passphrase)
        self._running.audit.note(ACTS[act].noted, mesh=mesh, file=file)
        return {"mesh": mesh, "file": file}


async def _follow(log: EventLog, seen: int, report: Report) -> NoReturn:
    """Report what happens after the event with the id `seen`."""
    while True:
        events: Sequence[Event] = ()
        with trio.move_on_after(EVENTS_SILENCE_S):
            events = await log.after(seen)
            seen = events[-1]["id"]
        await report({"events": events})


def invited(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What an invite says of whom it lets in, for `Commands.make_token`. Raises UserError."""
    owner = arguments.get("owner") or None
    role = arguments.get("role", "worker")
    if not isinstance(role, str) or role.upper() not in Role.__members__:
        raise UserError("the role is one of admin, worker, client, observer", ExitCode.WRONG_USAGE)
    if owner is not None and not _may_be_owner(owner):
        raise UserError(
            f"an owner's name has at most {OWNER_CHARS_MAX} bytes, all of them printable",
            ExitCode.WRONG_USAGE,
        )
    return {
        "is_trusted": bool(arguments.get("trusted")),
        "owner": owner,
        "role": Role[role.upper()],
    }


def _may_be_owner(owner: object) -> TypeGuard[str]:
    """In bytes, so that the invite's record has room for any script."""
    is_text = isinstance(owner, str) and owner.isprintable()
    return is_text and len(str(owner).encode()) <= OWNER_CHARS_MAX
