"""The one place for policies by name: who is tried first.

`meshd` is `protocol.routing.rank`, the code that the daemon runs. The others are there to be
compared with it: two that know nothing, one that knows little, two that know the truth. A further
policy of `protocol/routing.py` is one more line in `POLICIES`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from protocol.identity import NodeId
from protocol.messages import Load
from protocol.routing import Candidate, rank
from simulations.chance import below, shuffle


class Policy(Protocol):
    """One gateway's way to choose."""

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """Whom to try, best first; members under suspicion are not tried at all."""


class Truth(Protocol):
    """What no node can know: how it is everywhere, now."""

    def load(self, node: NodeId) -> Load:
        """A member's load."""

    def completion_ns(self, node: NodeId) -> int:
        """When a request of mean size that came now would be complete, roughly."""


class LeastBusy:
    """What the daemon does."""

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """By requests per slot as told, then by round trip."""
        return rank(candidates, rng)


class RoundRobin:
    """One after the other, in the order of their ids, from where this gateway began by chance."""

    def __init__(self) -> None:
        self._turn = -1

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """From the next in turn on."""
        alive = sorted(_alive(candidates), key=lambda candidate: candidate.node)
        if not alive:
            return []
        self._turn = self._turn + 1 if self._turn >= 0 else below(rng, len(alive))
        begin = self._turn % len(alive)
        return alive[begin:] + alive[:begin]


class Chance:
    """Anybody."""

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """In any order."""
        alive = _alive(candidates)
        shuffle(alive, rng)
        return alive


class TwoChoices:
    """The less busy of two that chance names (Mitzenmacher 2001), and so on with the rest."""

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """In any order, each two neighbours ordered by requests per slot as told."""
        alive = _alive(candidates)
        shuffle(alive, rng)
        ranked: list[Candidate] = []
        for place in range(0, len(alive), 2):
            ranked += rank(alive[place : place + 2], rng)
        return ranked


class LeastBusyOracle:
    """What the daemon would do if it knew every load as it is now."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """By requests per slot, then by round trip."""
        known = [replace(c, load=self._truth.load(c.node), own_requests=0) for c in candidates]
        return rank(known, rng)


class CompletionOracle:
    """Where a request would be complete first, by the true loads and the true speeds."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def rank(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
        """By the time of completion, ties by chance."""
        keyed = [
            (self._truth.completion_ns(c.node), rng.getrandbits(32), c) for c in _alive(candidates)
        ]
        keyed.sort(key=lambda entry: entry[:2])
        return [candidate for *_, candidate in keyed]


def _alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.is_alive]


POLICIES: Final[Mapping[str, Callable[[Truth], Policy]]] = {
    "meshd": lambda truth: LeastBusy(),
    "round_robin": lambda truth: RoundRobin(),
    "random": lambda truth: Chance(),
    "two_choices": lambda truth: TwoChoices(),
    "least_loaded_oracle": LeastBusyOracle,
    "completion_oracle": CompletionOracle,
}
"""By name; each gateway gets one of its own."""
