"""What nodes of the first release said to each other.

Frozen as the first release had it, without what encodes: never mended, only read with.
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
