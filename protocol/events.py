"""The one place for what happens TO a node. The driver makes them; `Node.handle` takes them.

Wall time appears only as a field of the events whose rule needs it.
"""

import dataclasses
import enum

from protocol.identity import Address, NodeId
from protocol.messages import Load


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """The driver's sockets are bound: publish ourselves and look for the members we remember."""

    addresses: tuple[Address, ...]
    """Where others reach us, best first."""


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class DatagramReceived:
    """Bytes from a UDP socket."""

    data: bytes
    source: Address


@dataclasses.dataclass(frozen=True, slots=True)
class StreamReceived:
    """One message on a gossip stream whose peer proved its key by TLS."""

    stream: int
    """The driver's number of the stream, for the answer."""
    peer: NodeId
    data: bytes
    wall_s: int
    """Unix time, by which an invite is judged."""


class StreamFailure(enum.StrEnum):
    """How a stream came to nothing; only some of it says anything about the peer."""

    REFUSED = "refused"
    """Its host answered that nobody listens there: the process is gone. (A connection that is cut
    says less: a live, busy process cuts some, too.)"""
    TIMED_OUT = "timed_out"
    """Silence."""
    OTHER = "other"
    """Anything else, our own troubles among it."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamFailed:
    """An exchange that we asked for came to nothing."""

    peer: NodeId
    reason: StreamFailure = StreamFailure.OTHER


@dataclasses.dataclass(frozen=True, slots=True)
class SendFailed:
    """Our own system would not send a datagram: a fault of this machine's, not of the peer's."""

    to: Address


@dataclasses.dataclass(frozen=True, slots=True)
class ContactLost:
    """A request that `node` was asked broke, or nothing more was heard of it: it deserves to be
    looked at now. That alone says nothing against it."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class Delayed:
    """This process came `lag_ns` too late to something, or ran out of something: it is not well,
    and should judge others slowly."""

    lag_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class DeadlineReached:
    """`Node.deadline` has come."""


@dataclasses.dataclass(frozen=True, slots=True)
class OfferChanged:
    """This node offers `value` under `key` from now on; empty: no longer."""

    key: str
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class LoadChanged:
    """How busy this node's runtimes are."""

    load: Load


@dataclasses.dataclass(frozen=True, slots=True)
class AddressesChanged:
    """This node is reached elsewhere from now on."""

    addresses: tuple[Address, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class AddressFound:
    """Somebody (mDNS, a person) says that a member is reached there. A hint, never a fact."""

    node: NodeId
    address: Address


@dataclasses.dataclass(frozen=True, slots=True)
class SeedFound:
    """A member is there of which nothing else may be known: exchange everything with it."""

    node: NodeId
    address: Address


@dataclasses.dataclass(frozen=True, slots=True)
class RecordIssued:
    """This machine's owner issued an authority record: an invite."""

    wire: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """The process stood still for `gap_ns`: what it missed says nothing about others."""

    gap_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Say goodbye."""


Event = (
    Started
    | DatagramReceived
    | StreamReceived
    | StreamFailed
    | SendFailed
    | ContactLost
    | Delayed
    | DeadlineReached
    | OfferChanged
    | LoadChanged
    | AddressesChanged
    | AddressFound
    | SeedFound
    | RecordIssued
    | Resumed
    | LeaveRequested
)
