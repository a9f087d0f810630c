"""The one place for policies: in which order candidates are tried. Pure, by integers.

`fastest`, the default, asks where a request would be complete first:

    wait for a slot + loading the model, where it is not in memory
    + prefill (little of it where the conversation was before)
    + decode at the learned speed + round trip

Loads are told, so they are old: the older, the more is assumed to be as everywhere. Of those that
are about as good as the best, two are drawn and the better one comes first (Mitzenmacher, "The
Power of Two Choices in Randomized Load Balancing", 2001): many gateways that know the same do not
all choose the same. Who has just failed a request is tried last, whatever the policy.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from protocol.messages import Load
from protocol.routing import Candidate, alive, rank
from protocol.speeds import Speed, typical

COOL_DOWN_NS: Final = 10_000_000_000
"""So long a node that failed a request is tried last."""
HALF_LIFE_NS: Final = 2_000_000_000
"""A load that was told so long ago is half what was told and half the mean of all."""
NEAR_PERCENT: Final = 120
"""As good as the best: not longer than so much of it ..."""
NEAR_NS: Final = 20_000_000
"""... and this."""
KEPT_PERCENT: Final = 80
"""Of a prompt, where the conversation was before."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of whoever runs it; estimates."""

    prompt_tokens: int = 500
    output_tokens: int = 200
    priority: int = 1
    """0 low, 1 normal, 2 high."""


class Policy(Protocol):
    """One gateway's way to choose."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """Whom to try, best first; members under suspicion are not tried at all."""
        ...


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

    @property
    def total_ns(self) -> int:
        """All of it."""
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
    if candidate.had_before:
        prefill_ns = prefill_ns * (100 - KEPT_PERCENT) // 100
    busy = _blended(candidate, mean_busy_milli)
    slots = max(1, candidate.load.slots if candidate.load is not None else 1)
    # A request waits while all slots are taken: for so many slots' worth of those before it.
    waiting_milli = max(0, busy - 1000 + 1000 // slots)
    wait_ns = waiting_milli * service_ns // 1000
    return Expected(wait_ns, prefill_ns, decode_ns, candidate.distance_ns, candidate.load_ns)


def expected_of_all(candidates: Sequence[Candidate], demand: Demand) -> list[Expected]:
    """The same for each of those between whom there is to choose."""
    usual, mean = typical(c.speed for c in candidates), _mean_busy(candidates)
    return [expected(candidate, demand, usual, mean) for candidate in candidates]


def _blended(candidate: Candidate, mean_busy_milli: int) -> int:
    """What is told, and the older it is the more of the mean; our own requests are no hearsay."""
    slots = max(1, candidate.load.slots if candidate.load is not None else 1)
    told, age_ns = candidate.busy_milli, candidate.load_age_ns
    blended = (told * HALF_LIFE_NS + mean_busy_milli * age_ns) // (HALF_LIFE_NS + age_ns)
    return max(blended, candidate.own_requests * 1000 // slots)


def _mean_busy(candidates: Sequence[Candidate]) -> int:
    return sum(c.busy_milli for c in candidates) // max(1, len(candidates))


def _cooled(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same order, but who has just failed comes last; and behind them all, who was not heard
    of at all: to find that out again takes long.
    """

    def how_badly(candidate: Candidate) -> int:
        failed = candidate.failed_ago_ns
        if failed is None or failed >= COOL_DOWN_NS:
            return 0
        return 2 if candidate.is_unreached else 1

    return sorted(candidates, key=how_badly)


class Fastest:
    """Where it would be complete first."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        able = alive(candidates)
        estimates = [each.total_ns for each in expected_of_all(able, demand)]
        keyed = [
            (estimate, rng.getrandbits(32), candidate)
            for estimate, candidate in zip(estimates, able, strict=True)
        ]
        keyed.sort(key=lambda entry: entry[:2])
        if len(keyed) > 1 and keyed[0][2].distance_ns > 0:  # how we ourselves are is no hearsay
            limit = keyed[0][0] * NEAR_PERCENT // 100 + NEAR_NS
            near = sum(estimate <= limit for estimate, *_ in keyed)
            if near > 1:
                first = min(_below(rng, near), _below(rng, near))
                keyed.insert(0, keyed.pop(first))
        return _cooled([candidate for *_, candidate in keyed])


class LeastLoaded:
    """By requests per slot as told, then by round trip."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        return _cooled(rank(candidates, rng))


class RoundRobin:
    """One after the other, in the order of their ids, from where this gateway began by chance."""

    def __init__(self) -> None:
        self._turn = -1

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = sorted(alive(candidates), key=lambda candidate: candidate.node)
        if not able:
            return []
        self._turn = self._turn + 1 if self._turn >= 0 else _below(rng, len(able))
        begin = self._turn % len(able)
        return _cooled(able[begin:] + able[:begin])


class ResourceAware:
    """The best hardware with a slot free: by tier, then by free slots, then by learned speed."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = alive(candidates)
        usual = typical(c.speed for c in able)

        def key(entry: tuple[Candidate, int]) -> tuple[bool, int, int, int, int]:
            candidate, chance = entry
            load = candidate.load or Load(0, 0, 1)
            used = max(load.queued + load.running, candidate.own_requests)
            free = load.slots - used
            speed = candidate.speed or usual
            return free < 1, candidate.tier, -free, speed.decode_ns, chance

        drawn = sorted(((c, rng.getrandbits(32)) for c in able), key=key)
        return _cooled([candidate for candidate, _ in drawn])


class LocalityAware:
    """The nearest that is not full: by round trip in steps that double, then by load."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        keyed = [
            (
                c.busy_milli >= 1000,
                (c.distance_ns // 1_000_000).bit_length(),
                c.busy_milli,
                rng.getrandbits(32),
                c,
            )
            for c in alive(candidates)
        ]
        keyed.sort(key=lambda entry: entry[:4])
        return _cooled([candidate for *_, candidate in keyed])


class PriorityFirst:
    """Urgent requests where they are complete first; others leave those nodes alone while slower
    ones are idle.
    """

    def __init__(self) -> None:
        self._fastest = Fastest()

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        ranked = self._fastest.rank(candidates, demand, rng)
        if demand.priority > 0:
            return ranked
        idle = [c for c in ranked if c.busy_milli < 1000]
        busy = [c for c in ranked if c.busy_milli >= 1000]
        return _cooled([*reversed(idle), *busy])


class FairShare:
    """Who has done least for us, measured by how fast it is: nobody's machine carries all."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """See Policy."""
        del demand
        able = alive(candidates)
        usual = typical(c.speed for c in able)
        keyed = [
            (
                c.busy_milli >= 2000,
                c.served_tokens * (c.speed or usual).decode_ns,
                c.busy_milli,
                rng.getrandbits(32),
                c,
            )
            for c in able
        ]
        keyed.sort(key=lambda entry: entry[:4])
        return _cooled([candidate for *_, candidate in keyed])


def _below(rng: random.Random, limit: int) -> int:
    """0 to limit - 1, by bits alone: the same on every machine and Python."""
    bits = (limit - 1).bit_length()
    while (value := rng.getrandbits(bits) if bits else 0) >= limit:
        pass
    return value


DEFAULT: Final = "fastest"
POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    DEFAULT: Fastest,
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
    "resource_aware": ResourceAware,
    "locality_aware": LocalityAware,
    "priority_first": PriorityFirst,
    "fair_share": FairShare,
}
"""By name; each gateway makes its own."""
