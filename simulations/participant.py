"""The one place for what a simulated node is, whatever its protocol: events in, effects out."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any, Protocol

from protocol.config import ProtocolConfig
from protocol.effects import Effect
from protocol.events import Event
from protocol.identity import NodeId


class Participant(Protocol):
    """What the world knows of a node."""

    @property
    def deadline(self) -> int:
        """When the next DeadlineReached is due, in nanoseconds (`protocol.deadlines.NEVER`)."""

    def handle(self, event: Event, now: int) -> list[Effect]:
        """Take one event; what is to be done, in order.

        A view is what `MembershipChanged` effects say, one's own life included: all measures live
        from them. `Persist` keeps a number over restarts.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What a node of another protocol is given when its process starts."""

    node: NodeId
    """Its name in effects and events: 32 bytes, the same in every life."""
    rng: random.Random
    """Its only source of chance; `getrandbits` gives the same on every Python."""
    protocol: ProtocolConfig
    """The scenario's [protocol]; it takes of it what it understands."""
    incarnation: int = 0
    """Of the last `Persist` of an earlier life."""
    memory: Any = None
    """What `snapshot()` of the life before returned, if it has that method."""


NodeFactory = Callable[[Birth], Participant]


def name_of(make_node: object) -> str:
    """Of a class of nodes, or of what else makes some, as `find_node` takes it: `module:Class`."""
    named = make_node if hasattr(make_node, "__qualname__") else type(make_node)
    return f"{named.__module__}:{named.__qualname__}"
