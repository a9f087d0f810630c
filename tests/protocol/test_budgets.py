"""So many changes at once, so many per second, for each author alone."""

import pytest

from protocol import budgets
from protocol.budgets import Budgets
from protocol.config import SECOND
from protocol.identity import NodeId

ONE, OTHER = NodeId(b"1" * 32), NodeId(b"2" * 32)


def _spent(budget: Budgets, author: NodeId, burst: int, now: int) -> int:
    """How many changes pass at one moment."""
    count = 0
    while budget.has_room(author, burst, now):
        budget.spend(author, now)
        count += 1
    return count


def test_a_burst_and_then_a_rate() -> None:
    """What is not used is saved up to the burst, and no further."""
    budget = Budgets(8)
    counts = [_spent(budget, ONE, 20, now * SECOND) for now in (5, 6, 7, 9, 1000)]
    assert counts == [20, 8, 8, 16, 20]


def test_a_part_of_a_second_gives_a_part_of_the_rate() -> None:
    """By integers."""
    budget = Budgets(8)
    assert _spent(budget, ONE, 8, 0) == 8
    assert _spent(budget, ONE, 8, SECOND // 8 - 1) == 0
    assert _spent(budget, ONE, 8, SECOND // 8) == 1


def test_authors_do_not_pay_for_each_other() -> None:
    """Nor does looking cost anything."""
    budget = Budgets(1)
    assert _spent(budget, ONE, 3, 0) == 3
    assert all(budget.has_room(OTHER, 3, 0) for _ in range(10))
    assert _spent(budget, OTHER, 3, 0) == 3


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who spent the longest ago is forgotten first."""
    monkeypatch.setattr(budgets, "_AUTHORS_MAX", 1)
    budget = Budgets(1)
    budget.spend(ONE, 0)
    budget.spend(ONE, 0)
    budget.spend(OTHER, 0)
    assert list(budget._levels) == [OTHER]
