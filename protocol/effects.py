"""The one place for what a node asks of the world. `Node.handle` returns them, in order.

The driver carries each out before the next: a `Persist` is on disk before what follows is sent.
"""

import dataclasses

from protocol.errors import DropReason
from protocol.identity import Address, NodeId
from protocol.members import State
from protocol.messages import Load
from protocol.statements import Offer


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class SendDatagram:
    """Put these bytes into a UDP datagram."""

    data: bytes
    to: Address
    kind: str = ""
    """What is in it, for statistics: the message's name, `resend` or `challenge`."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a gossip stream to `peer`, send `data`, and bring its one answer."""

    peer: NodeId
    addresses: tuple[Address, ...]
    """To be tried in order."""
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerStream:
    """Send the last message on a stream that a peer opened."""

    stream: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Persist:
    """Own numbers must survive a crash: write them before anything that follows."""

    incarnation: int
    offers_version: int


@dataclasses.dataclass(frozen=True, slots=True)
class MembersDirty:
    """Members or authority records changed: worth writing to disk soon."""


@dataclasses.dataclass(frozen=True, slots=True)
class MembershipChanged:
    """A member came, went, is in doubt, or changed its name or address."""

    node: NodeId
    name: str
    state: State
    incarnation: int
    previous: State | None
    """None: it was unknown."""


@dataclasses.dataclass(frozen=True, slots=True)
class OffersChanged:
    """A member offers something else."""

    node: NodeId
    offer: Offer


@dataclasses.dataclass(frozen=True, slots=True)
class Partitioned:
    """Many members vanished at once: more likely a cut network than as many deaths."""

    lost: int
    present: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reunited:
    """Most of those whom a partition took are back."""

    present: int


@dataclasses.dataclass(frozen=True, slots=True)
class Superseded:
    """A newer run of this very identity lives elsewhere (a copied home): this one is silent now."""

    incarnation: int


@dataclasses.dataclass(frozen=True, slots=True)
class Equivocated:
    """A member signed two different statements under one number."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class LoadLearned:
    """A member told how busy it is."""

    node: NodeId
    load: Load


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """This node let a newcomer in."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """What this machine's owner decided counts and must be on disk before others hear of it; or,
    with a `refusal`, it does not count.
    """

    wire: bytes
    refusal: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class JoinRefused:
    """This node turned a newcomer away."""

    node: NodeId
    refusal: str


@dataclasses.dataclass(frozen=True, slots=True)
class Evicted:
    """A node is no member any more: close its streams. It may be this very node."""

    node: NodeId
    is_revoked: bool
    """Else another has its slot."""


@dataclasses.dataclass(frozen=True, slots=True)
class CaughtUp:
    """This node has heard what was decided while it was away, or nobody is there to tell: it may
    admit, serve and ask."""


@dataclasses.dataclass(frozen=True, slots=True)
class DatagramDropped:
    """A datagram, a stream message, or one thing inside it was refused."""

    reason: DropReason
    source: Address | NodeId
    detail: str = ""


Effect = (
    SendDatagram
    | OpenStream
    | AnswerStream
    | Persist
    | MembersDirty
    | MembershipChanged
    | OffersChanged
    | Partitioned
    | Reunited
    | Superseded
    | Equivocated
    | LoadLearned
    | Admitted
    | Issued
    | JoinRefused
    | Evicted
    | CaughtUp
    | DatagramDropped
)
