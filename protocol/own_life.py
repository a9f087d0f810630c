"""The one place for this node's own life: what it states about itself, and that only it may do so.

Rule 1: our own numbers are on disk before they are published (`Persist` comes first).
Rule 2: whoever is accused states the next incarnation; that refutes.
Rule 3: own numbers that come back to us, from a restored home or an earlier run, are risen above.
Rule 4: of two runs of one identity (a copied home) the newer one is the member. The older falls
        silent when it hears of the newer; it does not fight.
"""

from collections.abc import Callable

from protocol.crypto import Crypto
from protocol.dissemination import Dissemination
from protocol.effects import Persist, Superseded
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.identity import INCARNATION_MAX, Address, MeshId, is_valid_address
from protocol.members import Gone, Members, State
from protocol.outbox import Outbox
from protocol.statements import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_MAX,
    RUN_MAX,
    Accusation,
    Alive,
    Left,
    Statements,
    make_alive,
    make_left,
)


class OwnLife:
    """States, refutes and ends one node's own life."""

    def __init__(
        self,
        crypto: Crypto,
        mesh: MeshId,
        statements: Statements,
        members: Members,
        rumours: Dissemination,
        outbox: Outbox,
        *,
        name: str,
        software: str,
        incarnation: int,
        offers_version: int,
        run: int,
        versions: tuple[int, int],
        on_changed: Callable[[State | None], None],
    ) -> None:
        """`incarnation`: the highest that this node ever published; `offers_version` likewise.

        `run`, `versions`: see `Alive`. `on_changed` is given our state before.
        """
        self._crypto = crypto
        self._own = crypto.node_id
        self._mesh = mesh
        self._statements = statements
        self._members = members
        self._rumours = rumours
        self._outbox = outbox
        self._name = name
        self._software = software
        self._incarnation = incarnation
        self._run = run
        self._versions = versions
        self._addresses: tuple[Address, ...] = ()
        self._has_met = False
        self._on_changed = on_changed
        self.offers_version = offers_version
        self.has_left = False
        """Whether this node said goodbye in this life."""
        self.is_superseded = False
        """Whether a newer run of this identity lives elsewhere: then this one says nothing."""

    @property
    def is_over(self) -> bool:
        """Whether this run states nothing about itself any more."""
        return self.has_left or self.is_superseded

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
            self._mesh,
            self._incarnation,
            self._name,
            addresses,
            self._software,
            self._run,
            self._versions,
        )
        previous = self._members.state(self._own)
        self._statements.trust(alive)
        self._members.put_alive(alive)
        self._rumours.drop_accusations(self._own)
        self._rumours.add(alive)
        self._on_changed(previous)

    def persist(self) -> None:
        """Ask for our own numbers to be on disk before what follows."""
        self._outbox.add(Persist(self._incarnation, self.offers_version))

    def leave(self, now: int) -> Left:
        """Say goodbye at the current incarnation."""
        left = make_left(self._crypto, self._mesh, self._incarnation)
        previous = self._members.state(self._own)
        self.has_left = True
        self._statements.trust(left)
        self._members.put_gone(self._own, Gone(State.LEFT, self._incarnation, now, left))
        self._rumours.add(left)
        self._on_changed(previous)
        return left

    def note_met(self) -> None:
        """An exchange with a member is complete: what it knew of our past, we know too."""
        self._has_met = True

    def accept_alive(self, alive: Alive) -> None:
        """Our own life comes back to us: from an earlier run, or from another one that lives now.

        A run that has just begun takes the higher number: whoever starts last is the newer. One
        that has met the mesh already has been followed by a newer one. Raises Refused(STALE).
        """
        if alive.run > self._run and not self.is_over:
            if not self._has_met:
                self._run = min(alive.run + 1, RUN_MAX)
                self._rise_above(max(alive.incarnation, self._incarnation))
                return
            if alive.incarnation >= self._incarnation:
                self.is_superseded = True
                self._rumours.clear()
                self._outbox.add(Superseded(alive.incarnation))
                return
        self._accept(alive)

    def accept_left(self, left: Left) -> None:
        """A goodbye of ours comes back while we are here. Raises Refused(STALE)."""
        self._accept(left)

    def _accept(self, statement: Alive | Left) -> None:
        """Something that we once signed: maybe from before our home was restored."""
        own = self._members.alive_record(self._own)
        if statement.incarnation < self._incarnation:
            raise Refused(DropReason.STALE)
        if own is not None and own.wire == statement.wire:
            raise Refused(DropReason.STALE)
        if self.is_over:
            raise Refused(DropReason.STALE)  # we have said goodbye; so be it
        self._rise_above(statement.incarnation)

    def _rise_above(self, incarnation: int) -> None:
        """Publish a number above one of ours that others hold; before the start: at the start."""
        if incarnation >= INCARNATION_MAX:
            raise Refused(DropReason.STALE)  # there is none
        self._incarnation = incarnation
        if self._addresses:
            self.publish(self._addresses)

    def refute(self, accusation: Accusation) -> None:
        """Somebody accuses us. Raises Refused(STALE) when that needs no higher incarnation."""
        own = self._members.alive_record(self._own)
        if self.is_over or own is None:
            raise Refused(DropReason.STALE)
        if accusation.incarnation > self._incarnation:
            raise Refused(DropReason.STALE)
        if accusation.incarnation < self._incarnation:
            # The accuser missed our answer, and would count us dead though we speak to it.
            self._rumours.add(own)
            raise Refused(DropReason.STALE)
        self._rise_above(accusation.incarnation)
