"""How often requests fail where they were sent, as one node has seen it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import error_rates as under_test
from protocol.config import SECOND
from protocol.error_rates import HALF_LIFE_NS, ONE_EVENT_NS, PERMILLE_MAX, ErrorRates
from protocol.identity import NodeId

ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)


def test_what_is_known_is_of_one_model_on_one_node() -> None:
    """Nothing is held against others."""
    rates = ErrorRates()
    rates.note(ONE, "m", 0, has_failed=True)
    assert rates.permille(ONE, "m", 0) == 125
    assert rates.permille(ONE, "other", 0) == rates.permille(TWO, "m", 0) == 0


def test_it_comes_to_the_share_that_fails() -> None:
    """Of one in four that fail, about 250 in 1,000 are known, wherever it began."""
    rates, now, seen = ErrorRates(), 0, []
    for number in range(400):
        now += SECOND // 2
        rates.note(ONE, "m", now, has_failed=number % 4 == 0)
        seen.append(rates.permille(ONE, "m", now))
    assert 180 <= sum(seen[200:]) / 200 <= 280


def test_what_fails_together_failed_once() -> None:
    """A process that ends takes all its answers along."""
    rates = ErrorRates()
    for _ in range(30):
        rates.note(ONE, "m", SECOND, has_failed=True)
    assert rates.permille(ONE, "m", SECOND) == 125
    rates.note(ONE, "m", SECOND + ONE_EVENT_NS, has_failed=True)
    assert rates.permille(ONE, "m", SECOND + ONE_EVENT_NS) > 200


def test_what_is_old_counts_less() -> None:
    """Half after the half-life, and ever less: whoever is not asked any more gets his chance."""
    rates = ErrorRates()
    rates.note(ONE, "m", 0, has_failed=True)
    seen = [rates.permille(ONE, "m", age * HALF_LIFE_NS) for age in range(50)]
    assert seen[:4] == [seen[0] >> halvings for halvings in range(4)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100 * SECOND)), max_size=200))
def test_nobody_is_given_up(notes: list[tuple[bool, int]]) -> None:
    """Whatever happens, it is a share below one."""
    rates, now = ErrorRates(), 0
    for has_failed, later in notes:
        now += later
        rates.note(ONE, "m", now, has_failed=has_failed)
        assert 0 <= rates.permille(ONE, "m", now) <= PERMILLE_MAX


def test_the_one_not_heard_of_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who never failed takes no room."""
    monkeypatch.setattr(under_test, "ENTRIES_MAX", 2)
    rates = ErrorRates()
    for number in range(3):
        rates.note(TWO, f"never {number}", 0, has_failed=False)
        rates.note(ONE, str(number), 0, has_failed=True)
    assert [rates.permille(ONE, str(number), 0) for number in range(3)] == [0, 125, 125]
