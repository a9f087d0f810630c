"""The one place where statements about lives change a view: alive, left, accusations, deaths.

Rule 1: everything is checked before anything is touched; a refusal leaves the view as it was.
Rule 2: an accusation, also one that says "dead", is one suspicion of its signer, no more. A death
        is this node's own verdict, when the suspicion that it keeps runs out.
Rule 3: whoever is gone is remembered; only its own signed Alive with a higher number revives it.
Rule 4: what is said about ourselves is `own_life.py`'s affair.
"""

from collections.abc import Callable

from protocol.authority import Authority
from protocol.awareness import Awareness
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto
from protocol.deadlines import NEVER, Deadlines
from protocol.dissemination import Dissemination
from protocol.effects import MembersDirty, MembershipChanged
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId
from protocol.members import Gone, Members, State, supersedes
from protocol.outbox import Outbox
from protocol.own_life import OwnLife
from protocol.partition import PartitionWatch
from protocol.statements import Accusation, Alive, Left, Statement, Statements, make_accusation
from protocol.suspicion import (
    Suspicion,
    confirmations_wanted,
    refused_timeout,
    timeout_bounds,
)


class Membership:
    """One node's view of the lives of all others."""

    def __init__(
        self,
        config: ProtocolConfig,
        crypto: Crypto,
        authority: Authority,
        statements: Statements,
        members: Members,
        rumours: Dissemination,
        outbox: Outbox,
        own_life: OwnLife,
        partition: PartitionWatch,
        awareness: Awareness,
        *,
        on_present: Callable[[NodeId], None],
        on_changed: Callable[[NodeId], None],
        on_last_call: Callable[[NodeId, Statement], None],
    ) -> None:
        """`on_present` hears of every other member that comes or comes back, `on_changed` of
        everybody whose life counts differently now (no suspicion does that), `on_last_call` of who
        is soon declared dead, with our accusation.
        """
        self._config = config
        self._crypto = crypto
        self._own = crypto.node_id
        self._authority = authority
        self._statements = statements
        self._members = members
        self._rumours = rumours
        self._outbox = outbox
        self._own_life = own_life
        self._partition = partition
        self._awareness = awareness
        self._accusations: dict[NodeId, Accusation] = {}
        self._on_present = on_present
        self._on_changed = on_changed
        self._on_last_call = on_last_call
        self._refuted_ns = -config.probe_interval_ns
        self.suspicion_deadlines: Deadlines[NodeId] = Deadlines()

    @property
    def has_left(self) -> bool:
        """Whether this node itself says nothing any more."""
        return self._own_life.is_over

    @property
    def deadline_ns(self) -> int:
        """When `advance` has something to do; NEVER after our own end."""
        return NEVER if self._own_life.is_over else self.suspicion_deadlines.next_ns

    def accept_alive(self, alive: Alive, now: int) -> None:
        """A verified Alive. Raises Refused: NOT_ADMITTED, STALE, EQUIVOCATION, TABLE_FULL."""
        node = alive.author
        if node == self._own:
            self._own_life.accept_alive(alive)
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
            self._partition.note_back(node)
            self._on_present(node)
        self.note_changed(node, state)

    def _accept_known_alive(self, alive: Alive, known: Alive | None) -> None:
        if known is None:
            # A goodbye came before the life that it ended: its addresses are still of use.
            self._members.put_past(alive)
            self._on_changed(alive.author)
            return
        if known.incarnation != alive.incarnation or known.wire == alive.wire:
            raise Refused(DropReason.STALE)
        if alive.wire < known.wire and self._members.is_present(alive.author):
            # The same everywhere: of two lives under one number the lower bytes stay.
            previous = self._members.state(alive.author)
            self._members.put_past(alive)
            self._rumours.add(alive)
            self.note_changed(alive.author, previous)
        raise Refused(DropReason.EQUIVOCATION)

    def accept_left(self, left: Left, now: int) -> None:
        """A verified goodbye. Raises Refused: NOT_ADMITTED, STALE."""
        node = left.author
        if node == self._own:
            self._own_life.accept_left(left)
            return
        self._require_admitted(node)
        state = self._members.state(node)
        incarnation = self._members.incarnation(node)
        if state is not None and not supersedes(State.LEFT, left.incarnation, state, incarnation):
            raise Refused(DropReason.STALE)
        self._members.put_gone(node, Gone(State.LEFT, left.incarnation, now, left))
        self._partition.note_back(node)
        self.suspicion_deadlines.clear(node)
        self._rumours.drop_accusations(node)
        self._rumours.add(left)
        self.note_changed(node, state)

    def accept_accusation(self, accusation: Accusation, now: int) -> None:
        """A verified accusation. Raises Refused: NOT_ADMITTED, UNKNOWN_SUBJECT, STALE, ..."""
        role = self._authority.role_of(accusation.author)
        if role is None:
            raise Refused(DropReason.NOT_ADMITTED)
        subject = accusation.subject
        if subject == self._own:
            # Whoever it is: a client's word counts nowhere but in its own view, and there it does.
            self._own_life.refute(accusation)
            if role.may_admit and now - self._refuted_ns >= self._config.probe_interval_ns:
                self._refuted_ns = now  # once an interval: nobody else decides how well we are
                self._awareness.note(1)
            return
        if not role.may_admit:
            raise Refused(DropReason.NOT_ALLOWED, "clients and observers do not accuse")
        alive = self._members.alive_record(subject)
        if alive is None or accusation.incarnation > alive.incarnation:
            raise Refused(DropReason.UNKNOWN_SUBJECT)
        if accusation.incarnation < alive.incarnation or not self._members.is_present(subject):
            raise Refused(DropReason.STALE)
        if self._count(accusation, now):
            self._rumours.add(accusation)

    def suspect(self, subject: NodeId, now: int, *, is_refused: bool) -> None:
        """Our own probe of `subject` failed. `is_refused`: its host says that it is gone."""
        alive = self._members.alive_record(subject)
        assert alive is not None  # only present members are probed
        accusation = self._accusation(
            subject, alive.incarnation, is_dead=False, is_refused=is_refused
        )
        if self._count(accusation, now):
            self._spread(accusation)

    def _host_of(self, node: NodeId) -> str:
        alive = self._members.alive_record(node)
        return alive.addresses[0].host if alive is not None else ""

    def _count(self, accusation: Accusation, now: int) -> bool:
        """Count one accuser; True when that was news worth passing on."""
        subject, incarnation = accusation.subject, accusation.incarnation
        suspicion = self._members.suspicions.get(subject)
        previous = self._members.state(subject)
        if suspicion is None:
            members = self._members.present_count
            shortest, longest = timeout_bounds(self._config, members)
            wanted = confirmations_wanted(self._config, members)
            refused = min(shortest, refused_timeout(self._config, members))
            suspicion = Suspicion(
                incarnation, now, shortest, longest, refused, wanted, self._host_of(subject)
            )
            self._members.suspicions[subject] = suspicion
        refused_at = self._host_of(accusation.author) if accusation.is_refused else None
        if not suspicion.confirm(accusation.author, refused_at=refused_at):
            return False
        self._schedule(subject, suspicion)
        if previous is not State.SUSPECT:
            self.note_changed(subject, previous)
        return True

    def _spread(self, accusation: Accusation) -> None:
        """Pass on our own accusation; those of clients and observers would count nowhere."""
        role = self._authority.role_of(self._own)
        if role is not None and role.may_admit:
            self._statements.trust(accusation)
            self._rumours.add(accusation)

    def advance(self, now: int) -> None:
        """Declare dead whose suspicion has run out."""
        if self.has_left:
            return  # our view is nobody's concern any more, not even ours
        while (subject := self.suspicion_deadlines.pop_due(now)) is not None:
            suspicion = self._members.suspicions[subject]
            is_called = suspicion.called_ns is not None or self._config.last_call_ns == 0
            if not is_called or self._end_of(suspicion) > now:
                if not is_called:
                    suspicion.called_ns = now
                    accusation = self.accusation_of(subject)
                    assert accusation is not None  # it is under suspicion
                    self._on_last_call(subject, accusation)
                self._schedule(subject, suspicion)
                continue
            self._members.put_gone(subject, Gone(State.DEAD, suspicion.incarnation, now, None))
            self._partition.note_death(subject, now)
            self._rumours.drop_accusations(subject)
            self._spread(self._accusation(subject, suspicion.incarnation, is_dead=True))
            self.note_changed(subject, State.SUSPECT)

    def _end_of(self, suspicion: Suspicion) -> int:
        """Who is slow itself hears refutations late, and waits longer."""
        end_ns = suspicion.started_ns + self._awareness.patience(suspicion.timeout_ns)
        if suspicion.called_ns is None:
            return end_ns
        # However late the accusers came: who was asked to object has time to do so.
        return max(end_ns, suspicion.called_ns + self._config.last_call_ns // 2)

    def _schedule(self, subject: NodeId, suspicion: Suspicion) -> None:
        end_ns = self._end_of(suspicion)
        if suspicion.called_ns is None:
            end_ns = max(suspicion.started_ns, end_ns - self._config.last_call_ns)
        self.suspicion_deadlines.set(subject, end_ns)

    def hold(self, now: int, gap_ns: int) -> None:
        """We stood still: give everybody under suspicion that time back."""
        for subject, suspicion in self._members.suspicions.items():
            suspicion.started_ns += gap_ns
            suspicion.called_ns = None
            self._schedule(subject, suspicion)

    def accusation_of(self, node: NodeId) -> Accusation | None:
        """What we hold against a member, to tell it first; it will want to refute."""
        state = self._members.state(node)
        if state not in (State.SUSPECT, State.DEAD):
            return None
        incarnation = self._members.incarnation(node)
        return self._accusation(node, incarnation, is_dead=state is State.DEAD)

    def word_against(self, subject: NodeId, is_refused: bool) -> Accusation | None:
        """What a helper signs that did not hear `subject`; None when it cannot say anything."""
        alive = self._members.alive_record(subject)
        role = self._authority.role_of(self._own)
        if alive is None or not self._members.is_present(subject):
            return None
        if role is None or not role.may_admit:
            return None
        return self._accusation(subject, alive.incarnation, is_dead=False, is_refused=is_refused)

    def _accusation(
        self, subject: NodeId, incarnation: int, *, is_dead: bool, is_refused: bool = False
    ) -> Accusation:
        """Signed once: a mesh with many dead would sign for long at every exchange."""
        known = self._accusations.get(subject)
        if known is None or known.incarnation != incarnation or known.is_dead != is_dead:
            is_stale = True
        else:
            is_stale = is_refused and not known.is_refused
        if known is None or is_stale:
            known = make_accusation(
                self._crypto,
                self._authority.mesh,
                subject,
                incarnation,
                is_dead=is_dead,
                is_refused=is_refused,
            )
            self._accusations[subject] = known
        return known

    def expel(self, node: NodeId) -> None:
        """Forget a member whose admission no longer counts."""
        self._members.remove(node)
        self._rumours.drop_member(node)
        self._forget_accuser(node)
        self._partition.note_back(node)
        self._accusations.pop(node, None)
        self.suspicion_deadlines.clear(node)
        self._on_changed(node)
        self._outbox.add(MembersDirty())

    def _forget_accuser(self, node: NodeId) -> None:
        """What it said of others does not count any more either."""
        for subject, suspicion in list(self._members.suspicions.items()):
            if not suspicion.forget(node):
                continue
            if suspicion.accusers:
                self._schedule(subject, suspicion)
            else:
                del self._members.suspicions[subject]
                self.suspicion_deadlines.clear(subject)
                self.note_changed(subject, State.SUSPECT)

    def _require_admitted(self, node: NodeId) -> None:
        if self._authority.admission(node) is None:
            raise Refused(DropReason.NOT_ADMITTED)

    def postpone(self, now: int, delay_ns: int) -> None:
        """We are in no state to declare anybody dead yet: whoever is due gets more time."""
        late: list[NodeId] = []
        while (subject := self.suspicion_deadlines.pop_due(now)) is not None:
            late.append(subject)
        for subject in late:
            self.suspicion_deadlines.set(subject, now + delay_ns)

    def note_changed(self, node: NodeId, previous: State | None) -> None:
        """Report a change, of our own life too."""
        alive = self._members.alive_record(node)
        state = self._members.state(node)
        assert state is not None  # whatever changed is in the view now
        if state is not State.SUSPECT or previous is not State.ALIVE:
            self._on_changed(node)  # a suspect counts as alive: its content is the same
        name = alive.name if alive is not None else ""
        incarnation = self._members.incarnation(node)
        self._outbox.add(MembershipChanged(node, name, state, incarnation, previous))
        self._outbox.add(MembersDirty())
