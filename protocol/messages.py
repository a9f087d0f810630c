"""The one place for what nodes say to each other, apart from signed statements and records.

In datagrams (sealed), each followed by as many statements and records as fit:

    prober --Ping--> target                      prober --PingRequest--> helper
    prober <--Ack--- target                                helper --Ping(for prober)--> target
                                                           helper <--Ack(proof)-------- target
    any ----Gossip-> any                         prober <--RelayedAck(proof)-- helper
                                                 prober <--Nack(accusation)--- helper

On streams of kind gossip (mutual TLS), one message each way:

    member --Digest------> member                newcomer --Join--------> member
    member <--Difference-- member                newcomer <--JoinAnswer-- member
    member --PushPull----> member                prober or helper --StreamProbe-> target
    member <--PushPull---- member (is_reply)     prober or helper <--StreamAck--- target

An ack that passes through a helper carries the target's own signature: a helper cannot invent one.
A nack carries the helper's own accusation: it answers for what it says.
"""

import dataclasses

from protocol.identity import NodeId
from protocol.records import JoinProof


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How busy a node's runtimes are, in requests; rides in its own pings and acks."""

    queued: int
    running: int
    slots: int


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The prober on whose behalf a helper pings."""

    prober: NodeId
    sequence: int
    """The prober's own sequence number."""


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class Ping:
    """Are you there? `load` and `digest` are the sender's."""

    sequence: int
    load: Load | None
    origin: Origin | None = None
    digest: int | None = None
    """Of all that the sender knows (`digest.py`), 64 bits; None: it does not say."""
    token: bytes | None = None
    """What the sender wants to see in the receiver's datagrams (`envelope.py`), 8 bytes; None: it
    has told it, or does not say."""


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class Ack:
    """I am; `sequence` is the ping's. `proof` signs the ping's origin when it has one."""

    sequence: int
    load: Load | None
    proof: bytes = b""
    digest: int | None = None
    coordinate: tuple[int, ...] | None = None
    """Where the sender is in the space of round trips (`coordinates.py`), encoded."""


@dataclasses.dataclass(frozen=True, slots=True)
class PingRequest:
    """Ping `target` for me and send me its signed ack."""

    sequence: int
    target: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class RelayedAck:
    """The answer to a PingRequest: `target` signed (prober, sequence)."""

    sequence: int
    target: NodeId
    proof: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Nack:
    """The other answer to a PingRequest: I hear nothing of it either. Counts as an accusation."""

    sequence: int
    target: NodeId
    accusation: bytes
    """The helper's signed Accusation of the target, as wire; empty while it cannot make one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gossip:
    """Nothing but what rides along."""


DatagramMessage = Ping | Ack | PingRequest | RelayedAck | Nack | Gossip


@dataclasses.dataclass(frozen=True, slots=True)
class PushPull:
    """What the receiver may lack: records first, for they are the premises of statements."""

    is_reply: bool
    records: tuple[bytes, ...]
    statements: tuple[bytes, ...]
    wanted: tuple[bytes, ...] | None = None
    """What is asked for in the reply: short ids of members, and ids of records (`digest.py`), 8
    bytes each. None: everything."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What one node knows of one member, for comparison."""

    node: bytes
    """Short id."""
    state: int
    """0 present, 1 dead, 2 left."""
    incarnation: int
    content: int
    """64 bits over the member's life and offers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Digest:
    """What I know, bucket by bucket; and who I am, in case you do not know me."""

    members: bytes
    """BUCKETS sums of 8 bytes over what is known of the members in each bucket."""
    records: bytes
    """The same over authority records."""
    premises: tuple[bytes, ...]
    """The records that the sender's admission rests on, premises first, and its admission."""
    alive: bytes
    """The sender's own Alive."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """The answer to a Digest: what I know in the buckets where we differ."""

    member_buckets: int
    """Bit i: bucket i differs and is listed."""
    entries: tuple[Entry, ...]
    record_buckets: int
    record_ids: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class StreamProbe:
    """Are you there? By stream, when datagrams go unanswered."""

    origin: Origin
    """Whose probe this is; of the sender itself, or of whom it helps."""
    accusation: bytes = b""
    """What the sender holds against the target: a slow one should hear of it by every way."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamAck:
    """I am; `proof` signs the origin, as in an Ack."""

    origin: Origin
    proof: bytes
    alive: bytes = b""
    """The sender's present Alive: if it has just refuted, here is how."""


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """A newcomer's wish, with the invite in case the member has not heard of it yet."""

    invite: bytes
    proof: JoinProof


@dataclasses.dataclass(frozen=True, slots=True)
class JoinAnswer:
    """Admitted (`refusal` empty; the admission is among the records), or why not."""

    refusal: str
    records: tuple[bytes, ...]
    statements: tuple[bytes, ...]


StreamMessage = PushPull | Join | JoinAnswer | Digest | Difference | StreamProbe | StreamAck
