"""The one place for policies by name: who is tried first.

Those of `protocol/policies.py` are what the daemon runs; `meshd` is its default. The others
are there to be compared with them: one that knows nothing, one that knows little, two that know the
truth.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from protocol import policies
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.policies import Drawing, Policy
from protocol.routing import Candidate, alive, rank
from simulations.chance import shuffle


class Truth(Protocol):
    """What no node can know: how it is everywhere, now."""

    def load(self, node: NodeId) -> Load:
        """A member's load."""

    def completion_ns(self, node: NodeId) -> int:
        """When a request of mean size that came now would be complete, roughly."""


class Chance(Drawing):
    """Anybody."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """In any order."""
        del demand
        able = alive(candidates)
        shuffle(able, rng)
        return able


class TwoChoices(Drawing):
    """The less busy of two that chance names (Mitzenmacher 2001), and so on with the rest."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """In any order, each two neighbours ordered by requests per slot as told."""
        del demand
        able = alive(candidates)
        shuffle(able, rng)
        ranked: list[Candidate] = []
        for place in range(0, len(able), 2):
            ranked += rank(able[place : place + 2], rng)
        return ranked


class Oracle:
    """Who knows the truth knows it of all."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def considered(
        self, nodes: Sequence[NodeId], kept: Collection[NodeId], rng: random.Random
    ) -> Sequence[NodeId]:
        """All."""
        del kept, rng
        return nodes


class LeastBusyOracle(Oracle):
    """By requests per slot, as they are now."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """By requests per slot, then by round trip."""
        del demand
        known = [replace(c, load=self._truth.load(c.node), own_requests=0) for c in candidates]
        return rank(known, rng)


class CompletionOracle(Oracle):
    """Where a request would be complete first, by the true loads and the true speeds."""

    def rank(
        self, candidates: Sequence[Candidate], demand: Demand, rng: random.Random
    ) -> list[Candidate]:
        """By the time of completion, ties by chance."""
        del demand
        keyed = [
            (self._truth.completion_ns(c.node), rng.getrandbits(32), c) for c in alive(candidates)
        ]
        keyed.sort(key=lambda entry: entry[:2])
        return [candidate for *_, candidate in keyed]


def _untold(make: Callable[[], Policy]) -> Callable[[Truth], Policy]:
    """One of the daemon's, which is told no truth."""
    return lambda truth: make()


POLICIES: Final[Mapping[str, Callable[[Truth], Policy]]] = {
    "meshd": lambda truth: policies.POLICIES[policies.DEFAULT](),
    **{name: _untold(make) for name, make in policies.POLICIES.items()},
    "random": lambda truth: Chance(),
    "two_choices": lambda truth: TwoChoices(),
    "least_loaded_oracle": LeastBusyOracle,
    "completion_oracle": CompletionOracle,
}
"""By name; each gateway gets one of its own."""
