"""The one place for what nodes say to each other, apart from signed statements and records.

In datagrams (sealed), each followed by as many statements and records as fit:

    prober --Ping--> target                      prober --PingRequest--> helper
    prober <--Ack--- target                                helper --Ping(for prober)--> target
                                                           helper <--Ack(proof)-------- target
    any ----Gossip-> any                         prober <--RelayedAck(proof)-- helper

On streams of kind gossip (mutual TLS):

    member --PushPull--> member                  newcomer --Join--------> member
    member <--PushPull-- member (is_reply)       newcomer <--JoinAnswer-- member

An ack that passes through a helper carries the target's own signature: a helper cannot invent one.
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


@dataclasses.dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? `load` is the sender's."""

    sequence: int
    load: Load | None
    origin: Origin | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ack:
    """I am; `sequence` is the ping's. `proof` signs the ping's origin when it has one."""

    sequence: int
    load: Load | None
    proof: bytes = b""


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
class Gossip:
    """Nothing but what rides along."""


DatagramMessage = Ping | Ack | PingRequest | RelayedAck | Gossip


@dataclasses.dataclass(frozen=True, slots=True)
class PushPull:
    """Everything the sender knows: records first, for they are the premises of statements."""

    is_reply: bool
    records: tuple[bytes, ...]
    statements: tuple[bytes, ...]


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


StreamMessage = PushPull | Join | JoinAnswer
