"""The one place where foreign statements and records are let in, or refused with a reason.

Order of the checks, cheapest first: form, staleness, admission of the author, signature, and only
then the rules of `membership.py`, `offers.py` and `authority.py`.
"""

import enum
from collections.abc import Iterable
from typing import Final

from protocol.authority import Authority
from protocol.crypto import Crypto
from protocol.dissemination import Dissemination
from protocol.effects import MembersDirty
from protocol.errors import DropReason, Refused
from protocol.identity import Address, NodeId
from protocol.members import Members
from protocol.membership import Membership
from protocol.offers import Offers
from protocol.outbox import Outbox
from protocol.records import is_record
from protocol.statements import (
    Accusation,
    Alive,
    Left,
    Offer,
    Statement,
    Statements,
    decode_statement,
)

_QUIET = (DropReason.STALE,)
"""Ordinary in gossip: everything arrives several times."""
_ODD = (DropReason.MALFORMED, DropReason.NOT_ADMITTED, DropReason.NOT_ALLOWED)
"""Rare in what a member knows itself: it would not have taken such a thing in."""
ODD_MAX: Final = 256
"""So many of them end a frame: a large one full of inventions must not hold us up."""


class Taken(enum.Enum):
    """How the taking in of a frame ended."""

    WHOLE = enum.auto()
    LACKING = enum.auto()
    """Something lacked its premise: the sender knows records that we do not."""
    BROKEN = enum.auto()
    """A bad signature, or too much that cannot count, ended it."""


class Intake:
    """Takes in what rides in datagrams and what push/pull brings."""

    def __init__(
        self,
        crypto: Crypto,
        authority: Authority,
        statements: Statements,
        members: Members,
        membership: Membership,
        offers: Offers,
        rumours: Dissemination,
        outbox: Outbox,
    ) -> None:
        self._crypto = crypto
        self._authority = authority
        self._statements = statements
        self._members = members
        self._membership = membership
        self._offers = offers
        self._rumours = rumours
        self._outbox = outbox

    def take_all(self, wires: Iterable[bytes], source: Address | NodeId, now: int) -> "Taken":
        """Take in a frame's items in order; the first bad signature ends it."""
        taken = Taken.WHOLE
        odd = 0
        for wire in wires:
            try:
                self.take(wire, now)
            except Refused as refused:
                if refused.reason not in _QUIET:
                    self._outbox.drop(refused.reason, source, refused.detail)
                odd += refused.reason in _ODD
                if refused.reason is DropReason.BAD_SIGNATURE or odd >= ODD_MAX:
                    return Taken.BROKEN
                if refused.reason is DropReason.NOT_ADMITTED:
                    taken = Taken.LACKING
        return taken

    def take(self, wire: bytes, now: int) -> None:
        """Take in one statement or record. Raises Refused with any of the content reasons."""
        if is_record(wire):
            self.take_record(wire)
            return
        statement = self._statements.find(wire)
        if statement is None:
            statement = decode_statement(wire)
            self._refuse_stale(statement)
            if self._authority.admission(statement.author) is None:
                raise Refused(DropReason.NOT_ADMITTED)
            self._statements.verify(self._crypto, statement)
        match statement:
            case Alive():
                self._membership.accept_alive(statement, now)
            case Left():
                self._membership.accept_left(statement, now)
            case Accusation():
                self._membership.accept_accusation(statement, now)
            case Offer():
                self._offers.accept(statement)

    def take_record(self, wire: bytes) -> None:
        """Take in an authority record and spread what is new because of it. Raises Refused."""
        for record in self._authority.add(wire):
            self._rumours.add_record(record.wire)
            self._outbox.add(MembersDirty())
        for node in self._authority.take_evicted():
            self._membership.expel(node)
            self._offers.forget(node)

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
            case Offer():
                known = self._offers.version(statement.author, statement.key)
                if statement.version < known:
                    raise Refused(DropReason.STALE)
