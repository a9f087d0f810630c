"""The one place where foreign statements and records are let in, or refused with a reason.

Order of the checks, cheapest first: form, staleness, admission and budget of the author, signature,
and only then the rules of `membership.py`, `offers.py` and `authority.py`. Whoever passes on a bad
signature is not listened to for a while; it checked nothing itself.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.authority import Authority
from protocol.budgets import Budgets
from protocol.config import SECOND
from protocol.crypto import Crypto
from protocol.digest import Knowledge
from protocol.dissemination import Dissemination
from protocol.effects import Evicted, MembersDirty
from protocol.errors import DropReason, Refused
from protocol.identity import Address, NodeId
from protocol.members import Members
from protocol.membership import Membership
from protocol.messages import Gossip
from protocol.offers import Offers
from protocol.outbox import Outbox
from protocol.records import Record, is_record
from protocol.statements import (
    Accusation,
    Alive,
    Left,
    Statement,
    Statements,
    decode_statement,
)

_ODD = (
    DropReason.MALFORMED,
    DropReason.NOT_ADMITTED,
    DropReason.NOT_ALLOWED,
    DropReason.RATE_LIMITED,
)
"""Rare in what a member knows itself: it would not have taken such a thing in."""
ODD_MAX: Final = 256
"""So many of them end a frame: a large one full of inventions must not hold us up."""
UNKNOWN_MAX: Final = 4_096
"""So many statements of kinds that only a later version knows, which are reported once a frame."""
MUTED_NS: Final = 10 * SECOND
"""So long nothing is taken in from who passed on a bad signature."""
MUTED_MAX: Final = 1_024
CHANGES_BURST: Final = 128
"""Of one author's life and offers at once: all offers that it may have, twice ..."""
CHANGES_PER_S: Final = 8
"""... and then so many per second."""
ACCUSATIONS_BURST: Final = 128
"""By one accuser at once, or as many as there are members if that is more ..."""
ACCUSATIONS_PER_S: Final = 4
"""... and then so many per second."""

JUDGMENTS_BURST: Final = 64
"""Frames with records over which all must be judged anew: so many of one sender at once ..."""
JUDGED_PER_UNIT: Final = 512
"""Records: a judgment of more of them costs as much as several."""
JUDGMENTS_PER_S: Final = 1
"""... and then so many per second."""
_STRANGERS: Final = NodeId(bytes(32))
"""All who are not admitted, as far as we know, pay for judgments together: keys are cheap."""
CORRECTIONS_BURST: Final = 32
"""Answers to one member's outdated accusations ..."""
CORRECTIONS_PER_S: Final = 8


class Taken(enum.Enum):
    """How the taking in of a frame ended."""

    WHOLE = enum.auto()
    LACKING = enum.auto()
    """Something lacked its premise: the sender knows records that we do not."""
    BROKEN = enum.auto()
    """A bad signature, or too much that cannot count, ended it; or the sender is muted."""


class Intake:
    """Takes in what rides in datagrams and what exchanges bring."""

    def __init__(
        self,
        crypto: Crypto,
        authority: Authority,
        statements: Statements,
        members: Members,
        membership: Membership,
        offers: Offers,
        knowledge: Knowledge,
        rumours: Dissemination,
        outbox: Outbox,
    ) -> None:
        self._crypto = crypto
        self._authority = authority
        self._statements = statements
        self._members = members
        self._membership = membership
        self._offers = offers
        self._knowledge = knowledge
        self._rumours = rumours
        self._outbox = outbox
        self._changes = Budgets(CHANGES_PER_S)
        self._accusations = Budgets(ACCUSATIONS_PER_S)
        self._corrections = Budgets(CORRECTIONS_PER_S)
        self._judgments = Budgets(JUDGMENTS_PER_S)
        self._muted: dict[NodeId, int] = {}
        """Until when, of those that passed on a bad signature lately."""

    def is_muted(self, sender: NodeId, now: int) -> bool:
        """Whether nothing is taken in from this member at present."""
        return now < self._muted.get(sender, 0)

    def take_all(
        self, wires: Iterable[bytes], sender: NodeId, now: int, source: Address | None = None
    ) -> Taken:
        """Take in a frame's items in order; the first bad signature ends it.

        `sender` has proven its key, by seal or TLS. Refusals are reported as of `source`, if given.
        """
        try:
            return self._take_items(wires, sender, now, source)
        finally:
            self._settle(sender, now)

    def _take_items(
        self, wires: Iterable[bytes], sender: NodeId, now: int, source: Address | None
    ) -> Taken:
        blamed = source if source is not None else sender
        taken = Taken.WHOLE
        odd = unknown = 0
        for wire in wires:
            if self._is_known(wire):
                continue
            if self.is_muted(sender, now):
                self._outbox.drop(DropReason.MUTED, blamed)
                return Taken.BROKEN
            try:
                self._take_part(wire, sender, now)
            except Refused as refused:
                if refused.reason is DropReason.STALE:
                    self._correct(wire, sender, now)
                elif refused.reason is not DropReason.UNKNOWN_KIND or not unknown:
                    self._outbox.drop(refused.reason, blamed, refused.detail)
                unknown += refused.reason is DropReason.UNKNOWN_KIND
                if refused.reason is DropReason.BAD_SIGNATURE:
                    self._mute(sender, now)
                    return Taken.BROKEN
                odd += refused.reason in _ODD
                if odd >= ODD_MAX or unknown >= UNKNOWN_MAX:
                    return Taken.BROKEN
                if refused.reason is DropReason.NOT_ADMITTED:
                    taken = Taken.LACKING
        return taken

    def _take_part(self, wire: bytes, sender: NodeId, now: int) -> None:
        """One item of a frame. What needs a judgment of all records waits for the frame's end, or
        until there is much of it, and costs its sender: judging is work. Raises Refused.
        """
        if not is_record(wire):
            self.take(wire, now)
            return
        if self._authority.is_brimming:
            self._settle(sender, now)
        is_first = self._authority.is_settled
        if is_first and not self._judgments.has_room(self._payer(sender), JUDGMENTS_BURST, now):
            raise Refused(DropReason.RATE_LIMITED, "records to be judged")
        self._spread(self._authority.add(wire, is_part=True))

    def _payer(self, sender: NodeId) -> NodeId:
        return sender if self._authority.admission(sender) is not None else _STRANGERS

    def _is_known(self, wire: bytes) -> bool:
        """Whether this very item is in force here already, as most of what gossip brings is.

        Only a short cut: `take` would find nothing to change either.
        """
        statement = self._statements.find(wire)
        match statement:
            case None:
                return self._authority.is_counting(wire)
            case Alive():
                return self._members.alive_record(statement.author) is statement
            case Accusation():
                suspicion = self._members.suspicions.get(statement.subject)
                is_counted = suspicion is not None and suspicion.has_counted(statement)
                return is_counted and self._authority.admission(statement.author) is not None
            case _:
                return False

    def _correct(self, wire: bytes, sender: NodeId, now: int) -> None:
        """A member still accuses somebody who has refuted or said goodbye: tell it so."""
        if is_record(wire):
            return
        statement = self._statements.find(wire) or decode_statement(wire)
        if not isinstance(statement, Accusation) or statement.author != sender:
            return
        gone = self._members.gone(statement.subject)
        known: Statement | None = gone.left if gone is not None else None
        if gone is None:
            known = self._members.alive_record(statement.subject)
        if self._membership.has_left:
            return
        if known is not None and self._corrections.has_room(sender, CORRECTIONS_BURST, now):
            self._corrections.spend(sender, now)
            self._outbox.send(sender, Gossip(), known)

    def _mute(self, sender: NodeId, now: int) -> None:
        self._muted.pop(sender, None)
        if len(self._muted) >= MUTED_MAX:
            del self._muted[next(iter(self._muted))]
        self._muted[sender] = now + MUTED_NS

    def take(self, wire: bytes, now: int) -> None:
        """Take in one statement or record. Raises Refused with any of the content reasons."""
        if is_record(wire):
            self.take_record(wire)
            return
        statement = self._statements.find(wire)
        is_paid = statement is None
        if statement is not None:
            self._refuse_excess(statement, now)
        else:
            statement = decode_statement(wire)
            self._refuse_stale(statement)
            if self._authority.admission(statement.author) is None:
                raise Refused(DropReason.NOT_ADMITTED)
            self._refuse_excess(statement, now)
            self._statements.verify(self._crypto, statement)
            self._spend(statement, now)  # a check costs its author, whatever comes of it
        before = self._weight(statement)
        try:
            self._accept(statement, now)
        except Refused as refused:
            if refused.reason is DropReason.EQUIVOCATION and not is_paid:
                self._spend(statement, now)
            raise
        if not is_paid and (before is None or self._weight(statement) != before):
            self._spend(statement, now)

    def _accept(self, statement: Statement, now: int) -> None:
        match statement:
            case Alive():
                self._membership.accept_alive(statement, now)
            case Left():
                self._membership.accept_left(statement, now)
            case Accusation():
                self._membership.accept_accusation(statement, now)
            case _:
                self._offers.accept(statement)

    def _refuse_excess(self, statement: Statement, now: int) -> None:
        """Refuse before the signature is checked what its author may not say so often."""
        author = statement.author
        if isinstance(statement, Accusation):
            burst = max(ACCUSATIONS_BURST, len(self._members))
            has_room = self._accusations.has_room(author, burst, now)
        else:
            has_room = self._changes.has_room(author, CHANGES_BURST, now)
        if not has_room and author != self._crypto.node_id:
            raise Refused(DropReason.RATE_LIMITED, "of its author")

    def _spend(self, statement: Statement, now: int) -> None:
        budgets = self._accusations if isinstance(statement, Accusation) else self._changes
        budgets.spend(statement.author, now)

    def _weight(self, statement: Statement) -> tuple[int, int] | None:
        """How much counts against the subject of an accusation, which may add nothing to it.

        None when a statement that is not refused always changes something.
        """
        if not isinstance(statement, Accusation) or statement.subject == self._crypto.node_id:
            return None
        suspicion = self._members.suspicions.get(statement.subject)
        return (len(suspicion.accusers), len(suspicion.refused_at)) if suspicion else (0, 0)

    def take_record(self, wire: bytes) -> None:
        """Take in an authority record and spread what is new because of it. Raises Refused."""
        self._spread(self._authority.add(wire))

    def _settle(self, sender: NodeId, now: int) -> None:
        """Judge what a frame has brought, at its sender's cost."""
        if not self._authority.is_settled:
            units = 1 + self._authority.size // JUDGED_PER_UNIT
            self._judgments.spend(self._payer(sender), now, units)
            self._spread(self._authority.settle())

    def _spread(self, gained: Sequence[Record]) -> None:
        """What counts newly goes round; what does not any more is forgotten."""
        for record in self._authority.take_lost():
            self._knowledge.drop_record(record)
            self._rumours.drop_record(record.wire)
        for record in gained:
            self._rumours.add_record(record.wire)
            self._knowledge.add_record(record)
            self._outbox.add(MembersDirty())
        for node in self._authority.take_evicted():
            if self._authority.admission(node) is None:
                self._expel(node)

    def _expel(self, node: NodeId) -> None:
        """Forget who is no member any more, and what it said. What we ourselves are we still need
        to know: others may see it otherwise.
        """
        if node == self._crypto.node_id:
            self._outbox.add(Evicted(node, self._authority.is_revoked(node)))
            return
        # Of others a look at their own will do: a cascade may take thousands at once.
        self._outbox.add(Evicted(node, self._authority.revocation_of(node) is not None))
        self._membership.expel(node)
        self._offers.forget(node)
        self._knowledge.touch(node)
        self._outbox.forget(node)

    def _refuse_stale(self, statement: Statement) -> None:
        """Refuse before the signature is checked what could change nothing anyway."""
        match statement:
            case Alive() | Left():
                if statement.incarnation < self._members.incarnation(statement.author):
                    raise Refused(DropReason.STALE)
            case Accusation():
                is_ours = statement.subject == self._crypto.node_id  # membership.py answers it
                known = self._members.incarnation(statement.subject)
                if statement.incarnation < known and not is_ours:
                    raise Refused(DropReason.STALE)
                if statement.subject not in self._members:
                    raise Refused(DropReason.UNKNOWN_SUBJECT)
            case _:
                known = self._offers.version(statement.author, statement.key)
                if statement.version < known:
                    raise Refused(DropReason.STALE)
