"""The one place where statements about lives change a view: alive, left, accusations, deaths.

Rule 1: everything is checked before anything is touched; a refusal leaves the view as it was.
Rule 2: an accusation, also one that says "dead", is one suspicion of its signer, no more. A death
        is this node's own verdict, when the suspicion that it keeps runs out.
Rule 3: an accusation of ourselves is answered by an Alive one incarnation higher.
Rule 4: our own incarnation is on disk before it is published (`Persist` comes first).
Rule 5: whoever is gone is remembered; only its own signed Alive with a higher number revives it.
"""

from collections.abc import Callable

from protocol.authority import Authority
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto
from protocol.deadlines import Deadlines
from protocol.dissemination import Dissemination
from protocol.effects import MembersDirty, MembershipChanged, Persist
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.identity import INCARNATION_MAX, Address, NodeId, is_valid_address
from protocol.members import Gone, Members, State, supersedes
from protocol.outbox import Outbox
from protocol.statements import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_MAX,
    Accusation,
    Alive,
    Left,
    Statements,
    make_accusation,
    make_alive,
    make_left,
)
from protocol.suspicion import Suspicion, confirmations_wanted, timeout_bounds


class Membership:
    """One node's view of all lives, and its own life."""

    def __init__(
        self,
        config: ProtocolConfig,
        crypto: Crypto,
        authority: Authority,
        statements: Statements,
        members: Members,
        rumours: Dissemination,
        outbox: Outbox,
        *,
        name: str,
        software: str,
        incarnation: int,
        offers_version: int,
        on_present: Callable[[NodeId], None],
    ) -> None:
        """`incarnation`: the highest that this node ever published; `offers_version` likewise.

        `on_present` hears of every other member that comes or comes back.
        """
        self._config = config
        self._crypto = crypto
        self._own = crypto.node_id
        self._authority = authority
        self._statements = statements
        self._members = members
        self._rumours = rumours
        self._outbox = outbox
        self._name = name
        self._software = software
        self._incarnation = incarnation
        self._addresses: tuple[Address, ...] = ()
        self._has_left = False
        self._accusations: dict[NodeId, Accusation] = {}
        self._on_present = on_present
        self.offers_version = offers_version
        self.suspicion_deadlines: Deadlines[NodeId] = Deadlines()

    @property
    def has_left(self) -> bool:
        """Whether this node said goodbye in this life."""
        return self._has_left

    def publish(self, addresses: tuple[Address, ...]) -> None:
        """State that we live, with the next incarnation, and spread it.

        Raises LocalProtocolError for addresses that nobody could dial, or that are too many or
        too long: others would refuse the statement, and this node could not refute anything.
        """
        bytes_stated = sum(len(address.host) for address in addresses)
        if not 0 < len(addresses) <= ADDRESSES_MAX or bytes_stated > ADDRESS_BYTES_MAX:
            raise LocalProtocolError(f"a node states 1 to {ADDRESSES_MAX} short addresses")
        if not all(is_valid_address(*address) for address in addresses):
            raise LocalProtocolError("nobody could dial such an address")
        self._addresses = addresses
        self._incarnation += 1
        self.persist()
        alive = make_alive(
            self._crypto,
            self._authority.mesh,
            self._incarnation,
            self._name,
            addresses,
            self._software,
        )
        previous = self._members.state(self._own)
        self._statements.trust(alive)
        self._members.put_alive(alive)
        self._rumours.drop_accusations(self._own)
        self._rumours.add(alive)
        self._changed(self._own, previous)

    def persist(self) -> None:
        """Ask for our own numbers to be on disk before what follows."""
        self._outbox.add(Persist(self._incarnation, self.offers_version))

    def leave(self, now: int) -> Left:
        """Say goodbye at the current incarnation."""
        left = make_left(self._crypto, self._authority.mesh, self._incarnation)
        previous = self._members.state(self._own)
        self._has_left = True
        self._statements.trust(left)
        self._members.put_gone(self._own, Gone(State.LEFT, self._incarnation, now, left))
        self._rumours.add(left)
        self._changed(self._own, previous)
        return left

    def accept_alive(self, alive: Alive, now: int) -> None:
        """A verified Alive. Raises Refused: NOT_ADMITTED, STALE, EQUIVOCATION, TABLE_FULL."""
        node = alive.author
        if node == self._own:
            self._accept_own(alive.incarnation, alive.wire)
            return
        self._require_admitted(node)
        known = self._members.alive_record(node)
        state = self._members.state(node)
        if state is None and len(self._members) >= self._config.members_max:
            raise Refused(DropReason.TABLE_FULL)
        incarnation = self._members.incarnation(node)
        if state is not None and not supersedes(State.ALIVE, alive.incarnation, state, incarnation):
            self._accept_known_alive(alive, known)
            return
        if known is not None and known.addresses != alive.addresses:
            self._outbox.forget_address(node)
        self._members.put_alive(alive)
        self.suspicion_deadlines.clear(node)
        self._rumours.drop_accusations(node)
        self._rumours.add(alive)
        if state not in (State.ALIVE, State.SUSPECT):
            self._on_present(node)
        self._changed(node, state)

    def _accept_known_alive(self, alive: Alive, known: Alive | None) -> None:
        if known is None:
            # A goodbye came before the life that it ended: its addresses are still of use.
            self._members.put_past(alive)
            return
        if known.incarnation != alive.incarnation or known.wire == alive.wire:
            raise Refused(DropReason.STALE)
        if alive.wire < known.wire and self._members.is_present(alive.author):
            # The same everywhere: of two lives under one number the lower bytes stay.
            previous = self._members.state(alive.author)
            self._members.put_past(alive)
            self._rumours.add(alive)
            self._changed(alive.author, previous)
        raise Refused(DropReason.EQUIVOCATION)

    def _accept_own(self, incarnation: int, wire: bytes) -> None:
        """Something that we once signed comes back: maybe from before our home was restored."""
        own = self._members.alive_record(self._own)
        if incarnation < self._incarnation or (own is not None and own.wire == wire):
            raise Refused(DropReason.STALE)
        if self._has_left:
            raise Refused(DropReason.STALE)  # we have said goodbye; so be it
        self._rise_above(incarnation)

    def _rise_above(self, incarnation: int) -> None:
        """Publish a number above one of ours that others hold; before the start: at the start."""
        if incarnation >= INCARNATION_MAX:
            raise Refused(DropReason.STALE)  # there is none
        self._incarnation = incarnation
        if self._addresses:
            self.publish(self._addresses)

    def accept_left(self, left: Left, now: int) -> None:
        """A verified goodbye. Raises Refused: NOT_ADMITTED, STALE."""
        node = left.author
        if node == self._own:
            self._accept_own(left.incarnation, left.wire)
            return
        self._require_admitted(node)
        state = self._members.state(node)
        incarnation = self._members.incarnation(node)
        if state is not None and not supersedes(State.LEFT, left.incarnation, state, incarnation):
            raise Refused(DropReason.STALE)
        self._members.put_gone(node, Gone(State.LEFT, left.incarnation, now, left))
        self.suspicion_deadlines.clear(node)
        self._rumours.drop_accusations(node)
        self._rumours.add(left)
        self._changed(node, state)

    def accept_accusation(self, accusation: Accusation, now: int) -> None:
        """A verified accusation. Raises Refused: NOT_ADMITTED, UNKNOWN_SUBJECT, STALE, ..."""
        role = self._authority.role_of(accusation.author)
        if role is None:
            raise Refused(DropReason.NOT_ADMITTED)
        if not role.may_admit:
            raise Refused(DropReason.NOT_ALLOWED, "clients and observers do not accuse")
        subject = accusation.subject
        if subject == self._own:
            self._refute(accusation)
            return
        alive = self._members.alive_record(subject)
        if alive is None or accusation.incarnation > alive.incarnation:
            raise Refused(DropReason.UNKNOWN_SUBJECT)
        if accusation.incarnation < alive.incarnation or not self._members.is_present(subject):
            raise Refused(DropReason.STALE)
        if self._count(subject, accusation.author, accusation.incarnation, now):
            self._rumours.add(accusation)

    def _refute(self, accusation: Accusation) -> None:
        own = self._members.alive_record(self._own)
        if self._has_left or own is None or accusation.incarnation > self._incarnation:
            raise Refused(DropReason.STALE)
        if accusation.incarnation < self._incarnation:
            # The accuser missed our answer, and would count us dead though we speak to it.
            self._rumours.add(own)
            raise Refused(DropReason.STALE)
        self._rise_above(accusation.incarnation)

    def suspect(self, subject: NodeId, now: int) -> None:
        """Our own probe of `subject` failed."""
        alive = self._members.alive_record(subject)
        assert alive is not None  # only present members are probed
        if not self._count(subject, self._own, alive.incarnation, now):
            return
        self._accuse(subject, alive.incarnation, is_dead=False)

    def _count(self, subject: NodeId, accuser: NodeId, incarnation: int, now: int) -> bool:
        """Count one accuser; True when that was news worth passing on."""
        suspicion = self._members.suspicions.get(subject)
        previous = self._members.state(subject)
        if suspicion is None:
            members = self._members.present_count
            shortest, longest = timeout_bounds(self._config, members)
            wanted = confirmations_wanted(self._config, members)
            suspicion = Suspicion(incarnation, now, shortest, longest, wanted)
            self._members.suspicions[subject] = suspicion
        if not suspicion.confirm(accuser):
            return False
        self.suspicion_deadlines.set(subject, suspicion.deadline_ns)
        if previous is not State.SUSPECT:
            self._changed(subject, previous)
        return True

    def _accuse(self, subject: NodeId, incarnation: int, *, is_dead: bool) -> None:
        accusation = self._accusation(subject, incarnation, is_dead=is_dead)
        self._statements.trust(accusation)
        self._rumours.add(accusation)

    def advance(self, now: int) -> None:
        """Declare dead whose suspicion has run out."""
        while (subject := self.suspicion_deadlines.pop_due(now)) is not None:
            suspicion = self._members.suspicions[subject]
            self._members.put_gone(subject, Gone(State.DEAD, suspicion.incarnation, now, None))
            self._rumours.drop_accusations(subject)
            self._accuse(subject, suspicion.incarnation, is_dead=True)
            self._changed(subject, State.SUSPECT)

    def hold(self, now: int, gap_ns: int) -> None:
        """We stood still: give everybody under suspicion that time back."""
        for subject, suspicion in self._members.suspicions.items():
            suspicion.started_ns += gap_ns
            self.suspicion_deadlines.set(subject, max(suspicion.deadline_ns, now))

    def accusation_of(self, node: NodeId) -> Accusation | None:
        """What we hold against a member, to tell it first; it will want to refute."""
        state = self._members.state(node)
        if state not in (State.SUSPECT, State.DEAD):
            return None
        incarnation = self._members.incarnation(node)
        return self._accusation(node, incarnation, is_dead=state is State.DEAD)

    def _accusation(self, subject: NodeId, incarnation: int, *, is_dead: bool) -> Accusation:
        """Signed once: a mesh with many dead would sign for long at every exchange."""
        known = self._accusations.get(subject)
        if known is None or known.incarnation != incarnation or known.is_dead != is_dead:
            mesh = self._authority.mesh
            known = make_accusation(self._crypto, mesh, subject, incarnation, is_dead=is_dead)
            self._accusations[subject] = known
        return known

    def expel(self, node: NodeId) -> None:
        """Forget a member whose admission no longer counts."""
        self._members.remove(node)
        self._accusations.pop(node, None)
        self.suspicion_deadlines.clear(node)
        self._outbox.add(MembersDirty())

    def _require_admitted(self, node: NodeId) -> None:
        if self._authority.admission(node) is None:
            raise Refused(DropReason.NOT_ADMITTED)

    def _changed(self, node: NodeId, previous: State | None) -> None:
        alive = self._members.alive_record(node)
        state = self._members.state(node)
        assert state is not None  # whatever changed is in the view now
        name = alive.name if alive is not None else ""
        incarnation = self._members.incarnation(node)
        self._outbox.add(MembershipChanged(node, name, state, incarnation, previous))
        self._outbox.add(MembersDirty())
