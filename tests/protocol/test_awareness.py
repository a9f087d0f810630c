"""How well this node itself is: every move of the score, and what it stretches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.awareness import PATIENCE_SCORE_MAX, Awareness
from protocol.config import SCORE_MAX, SECOND


def test_a_node_begins_well() -> None:
    """Score 0 stretches nothing."""
    awareness = Awareness()
    assert awareness.score == 0
    assert awareness.scale(SECOND) == awareness.patience(SECOND) == SECOND


@pytest.mark.parametrize(
    ("moves", "score"),
    [
        ((1,), 1),
        ((3, -1), 2),
        ((-1,), 0),
        ((-1, 1), 1),
        ((SCORE_MAX,), SCORE_MAX),
        ((SCORE_MAX, 1), SCORE_MAX),
        ((100, -1), SCORE_MAX - 1),
        ((0,), 0),
    ],
)
def test_the_score_moves_within_its_bounds(moves: tuple[int, ...], score: int) -> None:
    """memberlist's vectors: it saturates at both ends and owes nothing beyond them."""
    awareness = Awareness()
    for move in moves:
        awareness.note(move)
    assert awareness.score == score


@pytest.mark.parametrize("score", range(SCORE_MAX + 1))
def test_each_point_adds_one_more_time(score: int) -> None:
    """Waits up to eight times as long, suspicions half as long again per point, of three."""
    awareness = Awareness()
    awareness.note(score)
    assert awareness.scale(7 * SECOND) == 7 * SECOND * (score + 1)
    points = min(score, PATIENCE_SCORE_MAX)
    assert awareness.patience(6 * SECOND) == 6 * SECOND + 3 * SECOND * points


def test_a_lower_ceiling_holds() -> None:
    """At 0 a node is always well: SWIM without Lifeguard's local health."""
    awareness = Awareness(0)
    awareness.note(9)
    assert awareness.score == 0
    assert awareness.scale(SECOND) == awareness.patience(SECOND) == SECOND


@given(st.lists(st.integers(-9, 9)))
def test_no_history_leaves_the_bounds(moves: list[int]) -> None:
    """0 to 7, whatever happened."""
    awareness = Awareness()
    for move in moves:
        awareness.note(move)
        assert 0 <= awareness.score <= SCORE_MAX == 7
