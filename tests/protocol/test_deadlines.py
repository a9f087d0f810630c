"""Many deadlines under one clock."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.deadlines import NEVER, Deadlines


def test_empty_is_never() -> None:
    """Nothing is due."""
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next_ns == NEVER
    assert deadlines.pop_due(NEVER - 1) is None
    assert deadlines.get("a") is None
    assert len(deadlines) == 0


def test_equal_times_fire_in_the_order_they_were_set() -> None:
    """Ties are deterministic, and the last `set` of a key counts."""
    deadlines: Deadlines[str] = Deadlines()
    for key in ("c", "a", "b", "c"):
        deadlines.set(key, 5)
    fired = [deadlines.pop_due(5) for _ in range(4)]
    assert fired == ["a", "b", "c", None]


def test_moving_and_clearing() -> None:
    """A moved deadline fires once, a cleared one never."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", 1)
    deadlines.set("a", 9)
    deadlines.set("b", 2)
    deadlines.clear("b")
    deadlines.clear("unknown")
    assert deadlines.get("a") == deadlines.next_ns == 9
    assert deadlines.pop_due(8) is None
    assert deadlines.pop_due(9) == "a"
    assert deadlines.next_ns == NEVER


def test_moving_does_not_pile_up() -> None:
    """A deadline that moves for ever keeps the heap small."""
    deadlines: Deadlines[str] = Deadlines()
    for when in range(100_000):
        deadlines.set("a", when)
    assert len(deadlines._heap) < 100


def test_moving_behind_one_that_stays_does_not_pile_up() -> None:
    """Nor when what is over lies below what is due first."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("first", 1)
    for when in range(2, 1_000):
        deadlines.set("a", when)
    assert len(deadlines._heap) < 100
    assert deadlines.pop_due(999) == "first"
    assert deadlines.pop_due(999) == "a"
    assert deadlines.next_ns == NEVER


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20) | st.none()), max_size=200))
def test_behaves_like_a_plain_table(steps: list[tuple[int, int | None]]) -> None:
    """Whatever is set, moved and cleared: what fires is what a plain dict would say."""
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for key, when in steps:
        model.pop(key, None)
        if when is None:
            deadlines.clear(key)
        else:
            deadlines.set(key, when)
            model[key] = when
    fired = []
    while (key_due := deadlines.pop_due(10)) is not None:
        fired.append(key_due)
    expected = sorted((when, order, key) for order, (key, when) in enumerate(model.items()))
    assert fired == [key for when, _, key in expected if when <= 10]
    assert deadlines.next_ns == min((w for w in model.values() if w > 10), default=NEVER)
