"""Policies by name: each tries those that live, each once, and in its own order."""

import random

import pytest

from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.policies import Fastest
from protocol.routing import Candidate
from simulations.inference.policies import POLICIES

DEMAND = Demand()
NODES = [NodeId(bytes([n]) * 32) for n in range(6)]


class Known:
    """The truth: the later the node, the less busy, and the slower."""

    def load(self, node: NodeId) -> Load:
        """Node n has 5 - n requests."""
        return Load(0, 5 - NODES.index(node), 1)

    def completion_ns(self, node: NodeId) -> int:
        """Node 3 is the best, and then its neighbours."""
        return abs(NODES.index(node) * 10 - 31)


def _candidates() -> list[Candidate]:
    """Told is the contrary of what is true: the earlier the node, the less busy; 4 is suspect."""
    return [
        Candidate(node=node, is_alive=n != 4, load=Load(0, n, 1), round_trip_ns=10)
        for n, node in reversed(list(enumerate(NODES)))
    ]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_tries_each_that_lives_once(name: str) -> None:
    """Nobody under suspicion, nobody twice; nobody at all if there is nobody."""
    policy = POLICIES[name](Known())
    ranked = [candidate.node for candidate in policy.rank(_candidates(), DEMAND, random.Random(1))]
    assert sorted(ranked) == [node for node in NODES if node != NODES[4]]
    assert policy.rank([], DEMAND, random.Random(1)) == []


def _order(name: str) -> list[int]:
    ranked = POLICIES[name](Known()).rank(_candidates(), DEMAND, random.Random(1))
    return [NODES.index(candidate.node) for candidate in ranked]


def test_orders_by_what_each_knows() -> None:
    """What was told, what is true, and where it would be complete first."""
    assert _order("meshd") == _order("least_loaded") == [0, 1, 2, 3, 5]
    assert _order("least_loaded_oracle") == [5, 3, 2, 1, 0]
    assert _order("completion_oracle") == [3, 2, 5, 1, 0]


def test_meshd_is_the_code_of_protocol() -> None:
    """The same chance, the same order."""
    policy = POLICIES["meshd"](Known())
    expected = Fastest().rank(_candidates(), DEMAND, random.Random(9))
    assert policy.rank(_candidates(), DEMAND, random.Random(9)) == expected


def test_round_robin_goes_round() -> None:
    """Each is first in turn, whoever began."""
    policy, rng = POLICIES["round_robin"](Known()), random.Random(1)
    firsts = [policy.rank(_candidates(), DEMAND, rng)[0].node for _ in range(10)]
    assert sorted(firsts[:5]) == sorted(firsts[5:]) == [n for n in NODES if n != NODES[4]]
    assert firsts[:5] == firsts[5:]


def test_two_choices_prefers_the_less_busy_of_two() -> None:
    """The busiest is first never, the least busy more often than by chance."""
    policy, rng = POLICIES["two_choices"](Known()), random.Random(1)
    firsts = [
        NODES.index(policy.rank(_candidates()[2:], DEMAND, rng)[0].node) for _ in range(2_000)
    ]
    assert firsts.count(3) == 0
    assert firsts.count(0) / 2_000 == pytest.approx(1 / 2, abs=0.04)
