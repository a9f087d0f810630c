"""The one place for when a request that came now would be complete on a candidate. Pure, integers.

    wait for a slot + loading the model, where it is not in memory
    + prefill (little of it where the conversation was before, or the prompt's beginning lies)
    + decode, at the node's speed + round trip
    + all of that once more, as often as requests fail there

Speeds are those that were learned, else those that each node tells of itself (`speeds.py`); what
fails is learned (`error_rates.py`). Loads are told, so they are old (`HALF_LIFE`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.error_rates import PERMILLE_MAX
from protocol.routing import Candidate
from protocol.speeds import UNKNOWN, Speed, typical

HALF_LIFE: Final = 8
"""A load that was told as long ago as so many requests take is half what was told and half the
mean of all."""
KEPT_PERCENT: Final = 80
"""Of a prompt, where the conversation was before; and of what is told to lie there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of whoever runs it; estimates."""

    prompt_tokens: int = 500
    output_tokens: int = 200
    priority: int = 1
    """0 low, 1 normal, 2 high."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """When a request that came now would be complete on one candidate, in nanoseconds."""

    wait_ns: int
    """For a slot."""
    prefill_ns: int
    decode_ns: int
    round_trip_ns: int
    load_ns: int = 0
    """For the model to be in memory."""
    error_permille: int = 0

    @property
    def retry_ns(self) -> int:
        """For what fails and is done again: all of it, as often as requests fail there."""
        return self._once_ns * self.error_permille // (1000 - self.error_permille)

    @property
    def total_ns(self) -> int:
        """All of it."""
        return self._once_ns + self.retry_ns

    @property
    def first_ns(self) -> int:
        """To the first token, if it does not fail."""
        return self._once_ns - self.decode_ns

    @property
    def _once_ns(self) -> int:
        work_ns = self.wait_ns + self.load_ns + self.prefill_ns + self.decode_ns
        return work_ns + self.round_trip_ns


def expected(candidate: Candidate, demand: Demand, usual: Speed, mean_busy_milli: int) -> Expected:
    """What a request that came now would take there. `usual`: the speed of who is unknown;
    `mean_busy_milli`: work before a request, per slot, over all candidates.
    """
    speed = candidate.speed or usual
    prefill_ns = demand.prompt_tokens * speed.prefill_ns
    decode_ns = demand.output_tokens * speed.decode_ns
    service_ns = prefill_ns + decode_ns
    held = min(candidate.held_tokens, demand.prompt_tokens)
    held = demand.prompt_tokens if candidate.had_before else held
    prefill_ns -= held * speed.prefill_ns * KEPT_PERCENT // 100
    busy = _blended(candidate, mean_busy_milli, service_ns)
    slots = max(1, candidate.load.slots if candidate.load is not None else 1)
    # A request waits while all slots are taken: for so many slots' worth of those before it.
    waiting_milli = max(0, busy - 1000 + 1000 // slots)
    wait_ns = waiting_milli * service_ns // 1000
    return Expected(
        wait_ns,
        prefill_ns,
        decode_ns,
        candidate.distance_ns,
        candidate.load_ns,
        min(candidate.error_permille, PERMILLE_MAX),
    )


def expected_of_all(candidates: Sequence[Candidate], demand: Demand) -> list[Expected]:
    """The same for each of those between whom there is to choose. Of whom nothing is known, it is
    what is usual on hardware of its tier, or at all.
    """
    mean = _mean_busy(candidates)
    usual: dict[int, Speed] = {}
    for tier in dict.fromkeys(c.tier for c in candidates if c.speed is None):
        known = [c.speed for c in candidates if c.tier == tier and c.speed is not None]
        usual[tier] = typical(known or (c.speed for c in candidates))
    return [expected(c, demand, usual.get(c.tier, UNKNOWN), mean) for c in candidates]


def _blended(candidate: Candidate, mean_busy_milli: int, service_ns: int) -> int:
    """What is told, and the older it is the more of the mean; our own requests are no hearsay."""
    slots = max(1, candidate.load.slots if candidate.load is not None else 1)
    told, age_ns = candidate.busy_milli, candidate.load_age_ns
    half_ns = HALF_LIFE * service_ns
    blended = (told * half_ns + mean_busy_milli * age_ns) // (half_ns + age_ns)
    return max(blended, candidate.own_requests * 1000 // slots)


def _mean_busy(candidates: Sequence[Candidate]) -> int:
    return sum(c.busy_milli for c in candidates) // max(1, len(candidates))
