"""In which order candidates are tried."""

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.expectation import Demand, expected, expected_of_all
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.policies import CONSIDERED_MAX, COOL_DOWN_NS, DEFAULT, POLICIES
from protocol.routing import Candidate, believed
from protocol.speeds import UNKNOWN, Speed

MS = 10**6
FAST, SLOW = Speed(MS, 10 * MS), Speed(20 * MS, 200 * MS)
DEMAND = Demand(prompt_tokens=100, output_tokens=100)


def _candidate(number: int, **more: object) -> Candidate:
    values: dict[str, object] = {
        "is_alive": True,
        "load": Load(0, 0, 4),
        "round_trip_ns": MS,
        **more,
    }
    return Candidate(node=NodeId(bytes((number,)) * 32), **values)  # type: ignore[arg-type]  # by name


def _order(name: str, *candidates: Candidate, seed: int = 1, demand: Demand = DEMAND) -> list[int]:
    ranked = POLICIES[name]().rank(candidates, demand, random.Random(seed))
    return [candidate.node[0] for candidate in ranked]


def _firsts(name: str, *candidates: Candidate, demand: Demand = DEMAND) -> Counter[int]:
    return Counter(_order(name, *candidates, seed=seed, demand=demand)[0] for seed in range(200))


_candidates = st.lists(
    st.builds(
        Candidate,
        node=st.integers(0, 30).map(lambda n: NodeId(bytes((n,)) * 32)),
        is_alive=st.booleans(),
        load=st.none() | st.builds(Load, *[st.integers(0, 2**31)] * 3),
        load_age_ns=st.integers(0, 2**62),
        own_requests=st.integers(0, 10_000),
        round_trip_ns=st.none() | st.integers(0, 2**62),
        speed=st.none() | st.builds(Speed, *[st.integers(1_000, 60 * 10**9)] * 2),
        tier=st.integers(1, 3),
        failed_ago_ns=st.none() | st.integers(0, 2**62),
        is_unreached=st.booleans(),
        had_before=st.booleans(),
        held_tokens=st.integers(0, 10_000),
        served_tokens=st.integers(0, 2**40),
        load_ns=st.integers(0, 2**42),
    ),
    max_size=8,
    unique_by=lambda candidate: candidate.node,
)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(_candidates, st.integers(0, 2**32))
def test_each_that_lives_is_tried_once(name: str, candidates: list[Candidate], seed: int) -> None:
    """Nobody under suspicion, nobody twice, the same for the same chance, whatever is told."""
    ranked = _order(name, *candidates, seed=seed)
    assert sorted(ranked) == sorted(c.node[0] for c in candidates if c.is_alive)
    assert ranked == _order(name, *candidates, seed=seed)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_who_has_just_failed_is_tried_last(name: str) -> None:
    """For a while; then it is one like all others."""
    failed = _candidate(1, speed=FAST, failed_ago_ns=1, tier=1)
    other = _candidate(2, speed=SLOW, load=Load(3, 4, 4))
    assert _firsts(name, failed, other) == {2: 200}
    again = dataclasses.replace(failed, failed_ago_ns=COOL_DOWN_NS)
    assert _firsts(name, again, other)[1] > 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_who_is_not_heard_of_comes_behind_who_has_failed(name: str) -> None:
    """To find out again that it is gone takes longer than to be refused again."""
    silent = _candidate(1, speed=FAST, failed_ago_ns=1, is_unreached=True, tier=1)
    failed = _candidate(2, speed=SLOW, failed_ago_ns=1, load=Load(3, 4, 4))
    other = _candidate(3, speed=SLOW, load=Load(9, 4, 4))
    assert _order(name, silent, failed, other) == [3, 2, 1]


class TestFastest:
    """The default."""

    def test_what_fails_is_reckoned_to_be_done_again(self) -> None:
        """Of two alike the one is asked that fails less; a much faster one is, though it fails."""
        steady = _candidate(1, speed=FAST)
        flaky = _candidate(2, speed=FAST, error_permille=250)
        estimate = expected(flaky, DEMAND, UNKNOWN, 0)
        assert estimate.total_ns == expected(steady, DEMAND, UNKNOWN, 0).total_ns * 4 // 3
        assert estimate.first_ns == expected(steady, DEMAND, UNKNOWN, 0).first_ns
        assert _firsts(DEFAULT, steady, flaky) == {1: 200}
        slow = _candidate(3, speed=SLOW)
        assert _firsts(DEFAULT, slow, flaky) == {2: 200}

    def test_it_is_the_default(self) -> None:
        """By its name."""
        assert DEFAULT == "fastest"

    @given(_candidates)
    def test_what_is_expected_has_parts(self, candidates: list[Candidate]) -> None:
        """Each of its own, none below nothing, in the order of the candidates."""
        for candidate, estimate in zip(
            candidates, expected_of_all(candidates, DEMAND), strict=True
        ):
            parts = dataclasses.astuple(estimate)
            assert min(parts) >= 0
            assert estimate.total_ns == sum(parts)
            assert estimate.round_trip_ns == candidate.distance_ns

    def test_a_busy_fast_node_beats_an_idle_slow_one(self) -> None:
        """Until its queue is longer than what it is faster by."""
        busy = _candidate(1, speed=FAST, load=Load(4, 4, 4))
        idle = _candidate(2, speed=SLOW)
        assert _order(DEFAULT, idle, busy) == [1, 2]
        swamped = _candidate(1, speed=FAST, load=Load(400, 4, 4))
        assert _order(DEFAULT, idle, swamped) == [2, 1]

    def test_a_busy_node_that_has_the_model_beats_an_idle_one_that_has_to_load_it(self) -> None:
        """Until its queue takes longer than the load."""
        cold = _candidate(1, speed=FAST, load_ns=5_000 * MS)
        assert _order(DEFAULT, cold, _candidate(2, speed=FAST, load=Load(4, 4, 4))) == [2, 1]
        assert _order(DEFAULT, cold, _candidate(2, speed=FAST, load=Load(80, 4, 4))) == [1, 2]

    def test_the_parts_of_the_estimate(self) -> None:
        """Wait, prefill, decode and the way there; a conversation's home prefills less, and so does
        who has the prompt's beginning.
        """
        idle = _candidate(1, speed=FAST)
        alone = 100 * MS + 1_000 * MS + MS
        assert expected(idle, DEMAND, UNKNOWN, 0).total_ns == alone
        kept = dataclasses.replace(idle, had_before=True)
        assert expected(kept, DEMAND, UNKNOWN, 0).total_ns == alone - 80 * MS
        for held, saved in ((50, 40), (100, 80), (9_000, 80)):
            told = dataclasses.replace(idle, held_tokens=held)
            assert expected(told, DEMAND, UNKNOWN, 0).total_ns == alone - saved * MS
        cold = dataclasses.replace(idle, load_ns=7 * MS)
        assert expected(cold, DEMAND, UNKNOWN, 0).total_ns == alone + 7 * MS
        full = dataclasses.replace(idle, load=Load(0, 4, 4))
        assert expected(full, DEMAND, UNKNOWN, 1000).total_ns == alone + 1_100 * MS // 4
        assert expected(dataclasses.replace(idle, speed=None), DEMAND, UNKNOWN, 0).total_ns == (
            100 * UNKNOWN.prefill_ns + 100 * UNKNOWN.decode_ns + MS
        )

    def test_the_unknown_are_as_others_of_their_tier(self) -> None:
        """A new machine without a card is not taken for one with it."""
        cards = [_candidate(n, tier=1, speed=FAST) for n in (1, 2)]
        known, new = _candidate(3, tier=2, speed=SLOW), _candidate(4, tier=2)
        estimates = expected_of_all([*cards, known, new], DEMAND)
        assert estimates[3] == estimates[2]
        other = expected_of_all([*cards, _candidate(5, tier=3)], DEMAND)
        assert other[2] == other[0]

    def test_the_home_of_a_conversation_yields_to_load(self) -> None:
        """It is first while it is about as good, and not when it is busy."""
        long = Demand(prompt_tokens=4_000, output_tokens=20)
        home, other = _candidate(1, speed=FAST, had_before=True), _candidate(2, speed=FAST)
        assert _firsts(DEFAULT, home, other, demand=long) == {1: 200}
        busy = dataclasses.replace(home, load=Load(8, 4, 4))
        assert _firsts(DEFAULT, busy, other, demand=long) == {2: 200}

    def test_old_loads_count_less(self) -> None:
        """What was told a minute ago is taken for as busy as all are."""
        crowd = [_candidate(n, speed=FAST, load=Load(4, 4, 4)) for n in range(3, 9)]
        fresh = _candidate(1, speed=FAST)
        old = dataclasses.replace(_candidate(2, speed=FAST), load_age_ns=60 * 10**9)
        assert _order(DEFAULT, *crowd, old, fresh)[0] == 1

    def test_our_own_requests_are_no_hearsay(self) -> None:
        """However old the load, and whatever the others have."""
        ours = _candidate(1, speed=FAST, own_requests=40, load_age_ns=60 * 10**9)
        assert _order(DEFAULT, ours, _candidate(2, speed=FAST)) == [2, 1]

    def test_of_equals_not_all_choose_the_same(self) -> None:
        """Many gateways with one view do not herd; who has more slots is the more frequent."""
        equals = [
            _candidate(n, speed=FAST, round_trip_ns=n * MS, load=Load(0, 0, n)) for n in range(1, 6)
        ]
        firsts = _firsts(DEFAULT, *equals)
        assert sorted(firsts) == [1, 2, 3, 4, 5]
        assert firsts[5] > 2 * firsts[1]

    def test_the_best_are_as_many_as_take_up_what_comes(self) -> None:
        """Where little has come since loads were told it is the best alone; where much has, it is
        others, too, that are slower, but none that is idle and far too slow.
        """

        def told(number: int, speed: Speed = FAST, slots: int = 4, running: int = 0) -> Candidate:
            load = Load(0, running, slots)
            return _candidate(number, speed=speed, load=load, load_age_ns=3 * 10**9)

        best, slow = told(1), told(6, SLOW)
        good = [told(n, Speed(MS, 15 * MS)) for n in range(2, 6)]
        assert _firsts(DEFAULT, best, *good, slow) == {1: 200}
        taken = [told(n, slots=1, running=1) for n in range(7, 20)]
        firsts = _firsts(DEFAULT, best, *good, slow, *taken)
        assert sorted(firsts)[:5] == [1, 2, 3, 4, 5]
        assert firsts[6] == 0

    def test_ourselves_when_we_are_the_best(self) -> None:
        """How we are is known exactly: no request goes next door without need."""
        here = _candidate(1, round_trip_ns=0)
        assert _firsts(DEFAULT, here, _candidate(2), _candidate(3)) == {1: 200}

    def test_the_far_ones_are_for_long_answers(self) -> None:
        """A fast node across the world loses for a word, and wins for a page."""
        far = _candidate(1, speed=FAST, round_trip_ns=300 * MS)
        near = _candidate(2, speed=Speed(2 * MS, 40 * MS), round_trip_ns=0)
        assert _order(DEFAULT, far, near, demand=Demand(10, 2))[0] == 2
        assert _order(DEFAULT, far, near, demand=Demand(10, 500))[0] == 1


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_of_many_a_policy_considers_some(name: str) -> None:
    """Each of them once, whoever is to be kept among them; of few it considers all."""
    nodes = [NodeId(bytes((n,)) * 32) for n in range(200)]
    kept = nodes[77:79]
    policy, rng = POLICIES[name](), random.Random(1)
    considered = policy.considered(nodes, kept, rng)
    assert len(dict.fromkeys(considered)) == len(considered)
    assert all(node in nodes for node in considered)
    if name == "locality_aware":
        assert len(considered) == 200
    else:
        assert len(considered) == CONSIDERED_MAX
    if name != "round_robin":
        assert all(node in considered for node in kept)
    assert sorted(policy.considered(nodes[:CONSIDERED_MAX], [], rng)) == nodes[:CONSIDERED_MAX]


def test_turns_go_on_behind_who_is_considered() -> None:
    """Of many, too, each is first once in a round."""
    nodes = [NodeId(bytes((n,)) * 32) for n in range(200)]
    policy, rng = POLICIES["round_robin"](), random.Random(1)
    firsts: list[NodeId] = []
    for _ in range(400):
        considered = policy.considered(nodes, [], rng)
        candidates = [_candidate(node[0]) for node in considered]
        firsts.append(policy.rank(candidates, DEMAND, rng)[0].node)
    assert sorted(firsts[:200]) == nodes
    assert firsts[200:] == firsts[:200]


def test_least_loaded_is_by_requests_per_slot() -> None:
    """Speeds do not matter to it."""
    fast, slow = _candidate(1, speed=FAST, load=Load(0, 1, 4)), _candidate(2, speed=SLOW)
    assert _order("least_loaded", fast, slow) == [2, 1]


def test_round_robin_takes_turns() -> None:
    """Each is first once in a round."""
    policy, rng = POLICIES["round_robin"](), random.Random(1)
    candidates = [_candidate(n) for n in range(1, 4)]
    firsts = [policy.rank(candidates, DEMAND, rng)[0].node[0] for _ in range(6)]
    assert sorted(firsts[:3]) == [1, 2, 3]
    assert firsts[3:] == firsts[:3]


def test_resource_aware_is_by_hardware_with_room() -> None:
    """The best tier that has a slot free; a full one comes after all that are not."""
    strong, weak = _candidate(1, tier=1, load=Load(0, 3, 4)), _candidate(2, tier=3)
    assert _order("resource_aware", weak, strong) == [1, 2]
    full = dataclasses.replace(strong, load=Load(0, 4, 4))
    assert _order("resource_aware", weak, full) == [2, 1]


def test_locality_aware_is_by_distance_with_room() -> None:
    """The next house before the next continent, unless it is full."""
    near = _candidate(1, round_trip_ns=MS, load=Load(0, 3, 4))
    far = _candidate(2, round_trip_ns=150 * MS)
    assert _order("locality_aware", far, near) == [1, 2]
    full = dataclasses.replace(near, load=Load(1, 4, 4))
    assert _order("locality_aware", far, full) == [2, 1]


def test_priority_first_keeps_the_fast_ones_free() -> None:
    """Requests of low priority take the slowest that is idle; all others the fastest."""
    fast, slow = _candidate(1, speed=FAST), _candidate(2, speed=SLOW)
    low, high = (dataclasses.replace(DEMAND, priority=priority) for priority in (0, 2))
    assert _firsts("priority_first", fast, slow, demand=low) == {2: 200}
    assert _firsts("priority_first", fast, slow, demand=high) == {1: 200}
    taken = dataclasses.replace(slow, load=Load(0, 4, 4))
    assert _firsts("priority_first", fast, taken, demand=low) == {1: 200}


def test_fair_share_is_by_what_each_has_done() -> None:
    """The fast one has done more tokens for the same time, and is next all the same."""
    fast = _candidate(1, speed=FAST, served_tokens=1_000)
    slow = _candidate(2, speed=SLOW, served_tokens=100)
    assert _order("fair_share", slow, fast) == [1, 2]
    assert _order("fair_share", dataclasses.replace(slow, served_tokens=10), fast) == [2, 1]


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("priority", [0, 2])
def test_a_model_is_not_loaded_where_another_node_has_it(name: str, priority: int) -> None:
    """Whatever the policy looks at besides; and who has failed comes behind both."""
    ready = _candidate(1, load=Load(0, 2, 8))
    cold = _candidate(2, load=Load(0, 0, 8), load_ns=134 * 10**9)
    failed = _candidate(3, failed_ago_ns=1)
    demand = dataclasses.replace(DEMAND, priority=priority)
    for seed in range(50):
        order = _order(name, cold, failed, ready, seed=seed, demand=demand)
        assert order == [1, 2, 3]


def test_where_time_decides_a_short_load_may_be_better_than_a_long_wait() -> None:
    """`fastest` weighs both."""
    full = _candidate(1, load=Load(60, 4, 4), speed=SLOW)
    cold = _candidate(2, load_ns=10**9, speed=SLOW)
    assert _order("fastest", full, cold) == [2, 1]


@pytest.mark.parametrize("load", [Load(0, 2**31, 2**31), Load(0, 1_000, 1_000)])
def test_a_lie_about_slots_draws_nobody_to_who_is_slow(load: Load) -> None:
    """However much it says that it has ended: ten others are a hundred times as fast."""
    others = [
        _candidate(n, load=Load(0, 1, 4), load_age_ns=500 * MS, speed=FAST) for n in range(10)
    ]
    slow = Speed(100 * FAST.prefill_ns, 100 * FAST.decode_ns)
    liar = _candidate(99, load=believed(load), load_age_ns=500 * MS, speed=slow)
    assert 99 not in _firsts(DEFAULT, *others, liar)
