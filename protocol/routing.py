"""The one place for who may run a request: candidates, and the filters that come before any choice.

`policies.py` puts them in order. Pure.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import Final

from protocol.identity import NodeId
from protocol.messages import Load
from protocol.speeds import Speed

UNKNOWN_ROUND_TRIP_NS: Final = 100_000_000
"""What is assumed of a member that was not measured yet: far, so that it never ties with us."""
LOWEST_TIER: Final = 3
SLOTS_BELIEVED_MAX: Final = 64
"""Nobody can look whether a node has the slots that it tells of, and who has many is asked for
much: so many at most, whatever it tells."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member that offers what is asked for, as the choosing node sees it."""

    node: NodeId
    is_alive: bool
    """Not under suspicion."""
    load: Load | None
    """As it last told; None when it has not."""
    load_age_ns: int = 0
    """How long ago that was."""
    own_requests: int = 0
    """Requests that this very node has running there: newer than anything gossip tells."""
    round_trip_ns: int | None = None
    """0 for ourselves, None for the unknown."""
    is_trusted: bool = False
    """Its invite was marked so."""
    speed: Speed | None = None
    """Of the model, as it was learned; None: nothing was."""
    tier: int = LOWEST_TIER
    """1 to 3, by its hardware."""
    failed_ago_ns: int | None = None
    """How long ago it failed a request of ours; None: it has not, or has answered since."""
    error_permille: int = 0
    """Of 1,000 requests of ours for the model, so many failed there lately."""
    is_unreached: bool = False
    """When it failed, nothing was heard of it."""
    may_be_too_long: bool = False
    """The prompt, by its bytes, for the context there: only there it is known how long it is."""
    had_before: bool = False
    """It answered the turn of this conversation before: much of the prompt may lie there."""
    held_tokens: int = 0
    """Of the prompt, so many tokens lie there from the beginning on, as it tells."""
    load_ns: int = 0
    """How long loading the model takes before anything else; 0: it is in memory there."""
    served_tokens: int = 0
    """What we had from it lately, for sharing evenly."""

    @property
    def busy_milli(self) -> int:
        """Thousandths of a slot's worth of work that stand before a new request, as told."""
        load = self.load or Load(0, 0, 1)
        known = max(load.queued + load.running, self.own_requests)
        return known * 1000 // max(1, load.slots)

    @property
    def has_slot(self) -> bool:
        """Whether a new request need wait neither for a slot nor for the model, as told."""
        is_free = self.load is not None and self.load.slots > 0 and self.busy_milli < 1000
        return is_free and not self.load_ns

    @property
    def distance_ns(self) -> int:
        """The round trip, or what is assumed for it."""
        return UNKNOWN_ROUND_TRIP_NS if self.round_trip_ns is None else self.round_trip_ns


def believed(load: Load | None) -> Load | None:
    """Of what a node tells of its load, what counts in a ranking: one with more slots than are
    believed is as busy, slot for slot, as it says.
    """
    if load is None or load.slots <= SLOTS_BELIEVED_MAX:
        return load
    slots = SLOTS_BELIEVED_MAX
    running = -(-load.running * slots // load.slots)  # up: one that is full stays full
    return Load(load.queued * slots // load.slots, running, slots)


def alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that are not under suspicion; the others are not tried at all."""
    return [candidate for candidate in candidates if candidate.is_alive]


def rank(candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
    """Least busy first: by requests running or waiting per slot, then by round trip; ties by
    chance, so that many gateways with one view do not herd on one node.
    """
    keyed = [(c.busy_milli, c.distance_ns, rng.getrandbits(32), c) for c in alive(candidates)]
    keyed.sort(key=lambda entry: entry[:3])
    return [candidate for *_, candidate in keyed]
