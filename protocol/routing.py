"""The one place for choosing who runs a request; pure.

Least busy first: by requests running or waiting per slot, then by round trip; ties by chance, so
that many gateways with one view do not herd on one node. Hard filters come first.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import Final

from protocol.identity import NodeId
from protocol.messages import Load

UNKNOWN_ROUND_TRIP_NS: Final = 100_000_000
"""What is assumed of a member that was not measured yet: far, so that it never ties with us."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member that offers what is asked for, as the choosing node sees it."""

    node: NodeId
    is_alive: bool
    """Not under suspicion."""
    load: Load | None
    """As it last told; None when it has not."""
    own_requests: int = 0
    """Requests that this very node has running there: newer than anything gossip tells."""
    round_trip_ns: int | None = None
    """0 for ourselves, None for the unknown."""
    is_trusted: bool = False
    """Its invite was marked so."""


def trusted(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those to whom a request may go that demands trust."""
    return [candidate for candidate in candidates if candidate.is_trusted]


def rank(candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
    """Whom to try, best first. Members under suspicion are not tried at all."""
    alive = [candidate for candidate in candidates if candidate.is_alive]
    keyed = [(_busyness_milli(c), _distance_ns(c), rng.getrandbits(32), c) for c in alive]
    keyed.sort(key=lambda entry: entry[:3])
    return [candidate for *_, candidate in keyed]


def _busyness_milli(candidate: Candidate) -> int:
    """Thousandths of a slot's worth of work that stand before a new request."""
    load = candidate.load or Load(0, 0, 1)
    known = max(load.queued + load.running, candidate.own_requests)
    return known * 1000 // max(1, load.slots)


def _distance_ns(candidate: Candidate) -> int:
    known = candidate.round_trip_ns
    return UNKNOWN_ROUND_TRIP_NS if known is None else known
