"""Whose turn it is: the laws of deficit round robin in a tree."""

import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.fair_queue import DEBTORS_MAX, QUANTUM, FairQueue, Path

COSTS = st.integers(1, 3_000)


def path(node: str, key: str = "", user: str = "", rank: int = 1) -> Path:
    """Of an item."""
    return (0, node.encode()), (rank, key.encode()), (0, user.encode())


class Counter:
    """Serves one item after the other; an item is (its flow's name, a number)."""

    def __init__(self) -> None:
        self.queue: FairQueue[tuple[str, int]] = FairQueue()
        self.number = 0
        self.costs: dict[tuple[str, int], int] = {}
        self.served: collections.Counter[str] = collections.Counter()

    def add(self, name: str, cost: int, where: Path | None = None, *, guess: int = 1) -> None:
        """One more waits; `guess` is what is thought of its cost before."""
        self.number += 1
        item = (name, self.number)
        self.costs[item] = cost
        self.queue.add(where or path(name), item, guess)

    def take(self, *, guess: int = 1) -> str:
        """Serve one, from its turn to its end."""
        item = self.queue.take()
        self.queue.charge(item, guess)
        self.queue.charge(item, self.costs[item] - guess)
        self.queue.leave(item)
        self.served[item[0]] += self.costs[item]
        return item[0]


def test_first_come_first_served_in_a_flow() -> None:
    """One who is alone has its items in order, whatever they cost."""
    queue: FairQueue[int] = FairQueue()
    for number, cost in enumerate((5, 5_000, 1, 70)):
        queue.add(path("a"), number, cost)
    taken = []
    while queue.waiting:
        taken.append(queue.take())
        queue.charge(taken[-1], 10_000)
    assert taken == [0, 1, 2, 3]


@given(st.lists(COSTS, min_size=60, max_size=60), st.lists(COSTS, min_size=60, max_size=60))
def test_nobody_who_waits_is_behind_by_more_than_an_item(one: list[int], two: list[int]) -> None:
    """Of two for whom something always waits, tokens differ by no more than each one's longest and
    a quantum, at any moment; although every cost was guessed wrongly.
    """
    counter = Counter()
    for cost in one:
        counter.add("one", cost)
    for cost in two:
        counter.add("two", cost)
    left = {"one": len(one), "two": len(two)}
    while all(left.values()):
        left[counter.take()] -= 1
        behind = abs(counter.served["one"] - counter.served["two"])
        assert behind <= max(one) + max(two) + 2 * QUANTUM


def _share(counter: Counter, name: str, turns: int) -> float:
    for _ in range(turns):
        counter.take()
    return counter.served[name] / counter.served.total()


def test_invented_users_and_keys_gain_nothing() -> None:
    """A node with 1,000 users, one with 1,000 keys and one with neither have a third each."""
    counter = Counter()
    for number in range(1_000):
        counter.add("users", 100, path("a", "k", f"user {number}"))
        counter.add("keys", 100, path("b", f"key {number}"))
        counter.add("plain", 100, path("c"))
    for name in ("users", "keys", "plain"):
        assert _share(counter, name, 300) == pytest.approx(1 / 3, abs=0.01)


def test_users_of_a_key_and_keys_of_a_node_share_evenly() -> None:
    """One who offers ten times as much gets no more, at each level."""
    counter = Counter()
    for number in range(1_000):
        counter.add("much", 100, path("a", "k", "much"))
        if number % 10 == 0:
            counter.add("little", 100, path("a", "k", "little"))
            counter.add("other key", 100, path("a", "other"))
    assert _share(counter, "much", 200) == pytest.approx(1 / 4, abs=0.01)
    assert counter.served["little"] == pytest.approx(counter.served["much"], abs=200)


def test_who_asks_for_one_long_thing_after_the_other_has_no_more() -> None:
    """Debt outlives the moment in which nothing waits: half is half."""
    counter = Counter()
    for _ in range(5_000):
        counter.add("many", 10)
    counter.add("long", 5_000)
    for _ in range(2_000):
        if counter.take() == "long":
            counter.add("long", 5_000)  # only now
    share = counter.served["long"] / counter.served.total()
    assert share <= 0.5 + 5_000 / counter.served.total()
    assert share >= 0.4


def test_credit_is_not_saved_up() -> None:
    """Who was away while others had 1,000 turns has the next turn but not the next hundred."""
    counter = Counter()
    counter.add("late", 1)
    counter.take()
    for _ in range(2_000):
        counter.add("busy", 100)
    for _ in range(1_000):
        counter.take()
    for _ in range(100):
        counter.add("late", 100)
    turns = [counter.take() for _ in range(20)]
    assert turns.count("late") == pytest.approx(10, abs=1)


def test_ranks_matter_among_their_siblings_only() -> None:
    """In a node the higher goes first; another node has its half whatever ranks it has."""
    counter = Counter()
    for _ in range(100):
        counter.add("low", 100, path("a", "low", rank=0))
        counter.add("other", 100, path("b", "x", rank=0))
    for _ in range(20):
        counter.add("high", 100, path("a", "high", rank=2))
    for _ in range(40):
        counter.take()
    assert counter.served == {"high": 2_000, "other": 2_000}
    assert {counter.take() for _ in range(10)} == {"low", "other"}


def test_any_debt_is_passed_in_one_step() -> None:
    """A cost of 10**15 does not take 10**13 rounds to pay."""
    counter = Counter()
    counter.add("a", 10**15)
    counter.add("b", 10**15)
    counter.add("a", 1)
    assert [counter.take() for _ in range(3)] == ["a", "b", "a"]


def test_a_refund_is_a_refund() -> None:
    """Who was charged for much and had nothing is as others are."""
    counter = Counter()
    for _ in range(50):
        counter.add("refunded", 100)
        counter.add("other", 100)
    turns = [counter.take(guess=100_000) for _ in range(40)]
    assert abs(turns.count("refunded") - 20) <= 1


def test_nothing_is_left_of_who_left() -> None:
    """Of 10,000 invented nodes, keys and users that came and went, only so many debts."""
    counter = Counter()
    for number in range(10_000):
        counter.add("x", 1_000, path(f"n{number % 500}", f"k{number}", f"u{number}"))
        counter.take()
    root = counter.queue._root
    assert len(root.children) == len(root.debtors) <= DEBTORS_MAX
    assert not any(node.children for node in root.children.values())
    assert not counter.queue._leaves


def test_a_busy_branch_remembers_only_so_many_debts() -> None:
    """Users of a key that always has something waiting."""
    counter = Counter()
    for number in range(2_000):
        counter.add("x", 1_000, path("n", "k", f"u{number}"))
        if number:
            counter.take()
    key = next(iter(next(iter(counter.queue._root.children.values())).children.values()))
    assert len(key.children) <= DEBTORS_MAX + 1


@given(st.randoms(use_true_random=False))
def test_counts_are_those_of_what_waits(rng: random.Random) -> None:
    """Through any sequence of adding, taking, charging and leaving; in the end there is nothing."""
    queue: FairQueue[int] = FairQueue()
    waiting: dict[int, int] = {}
    taken: list[int] = []
    for number in range(rng.randrange(150)):
        act = rng.randrange(5)
        if act < 2:
            where = path(rng.choice("ab"), rng.choice("kl"), rng.choice("uv"), rng.randrange(3))
            waiting[number] = rng.randrange(1, 500)
            queue.add(where, number, waiting[number])
        elif act == 2 and waiting:
            taken.append(queue.take())
            del waiting[taken[-1]]
        elif act == 3 and taken:
            queue.charge(rng.choice(taken), rng.randrange(-200, 2_000))
        elif act == 4 and (waiting or taken):
            item = rng.choice([*waiting, *taken])
            queue.leave(item)
            waiting.pop(item, None)
            taken = [other for other in taken if other != item]
        assert queue.waiting == len(waiting)
        assert queue.work == sum(waiting.values())
        assert sorted(queue.items()) == sorted(waiting)
    for item in [*waiting, *taken]:
        queue.leave(item)
    root = queue._root
    assert root.waiting == root.work == 0
    assert not root.active
    assert all(not node.children and node.deficit < 0 for node in root.children.values())


def test_who_must_make_room() -> None:
    """The last one of the longest: of nodes, else of the same node's keys, else of its users; a
    lower priority of the same node at once; nobody for who has as many.
    """
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.add(path("a", "k", "u"), f"a{number}", 1)
    assert queue.victim(path("b")) == "a3"
    assert queue.victim(path("a", "l")) == "a3"
    assert queue.victim(path("a", "k", "v")) == "a3"
    assert queue.victim(path("a", "k", "u")) is None
    assert queue.victim(path("a", "l", rank=2)) == "a3"
    assert queue.victim(path("a", "l", rank=0)) is None
    for number in range(3):
        queue.add(path("b"), f"b{number}", 1)
    assert queue.victim(path("b")) is None, "after it both would be as they were, turned round"
    assert queue.victim(path("c")) == "a3"
    queue.leave("a3")
    assert queue.victim(path("b", "l")) == "b2", "its own are as good"


@given(st.randoms(use_true_random=False))
def test_the_work_ahead_is_what_is_served_before(rng: random.Random) -> None:
    """Of everybody as much as one's own needs: true but for an item and a quantum of each flow."""
    counter = Counter()
    for _ in range(rng.randrange(1, 40)):
        name = rng.choice("abcd")
        cost = rng.randrange(1, 400)
        counter.add(name, cost, path(name), guess=cost)
    for _ in range(rng.randrange(counter.queue.waiting)):
        counter.take()
    where = path(rng.choice("ae"))
    ahead = counter.queue.work_ahead(where, 100)
    counter.add("new", 100, where)
    before = counter.served.total()
    while counter.take() != "new":
        pass
    served = counter.served.total() - 100 - before
    assert abs(served - ahead) <= 4 * (400 + QUANTUM)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("kl"), st.integers(0, 2)),
        min_size=1,
        max_size=30,
    )
)
def test_a_place_is_that_of_turns_that_cost_the_same(flows: list[tuple[str, str, int]]) -> None:
    """Each item is taken no later than its place says, and of one flow exactly then; keys of a
    higher rank go before.
    """
    queue: FairQueue[int] = FairQueue()
    for number, (node, key, rank) in enumerate(flows):
        queue.add(path(node, key, rank=rank), number, QUANTUM)
    places = {number: queue.place(number) for number in range(len(flows))}
    assert all(1 <= place <= len(flows) for place in places.values())
    if len(set(flows)) == 1:
        assert list(places.values()) == [*range(1, len(flows) + 1)]
    for turn in range(1, len(flows) + 1):
        item = queue.take()
        queue.charge(item, QUANTUM)
        queue.leave(item)
        assert turn <= places[item]


def test_a_place_counts_who_goes_between() -> None:
    """Of two nodes with as many items each, the second's k-th is the 2k-th, not behind all."""
    queue: FairQueue[int] = FairQueue()
    for number in range(10):
        queue.add(path("ab"[number // 5], "key", rank=0), number, QUANTUM)
    assert [queue.place(number) for number in range(5, 10)] == [2, 4, 6, 8, 10]
