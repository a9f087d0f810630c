"""How many tokens are proposed follows from how many were accepted."""

import pytest

from runtimes.llama.engine.draft_length import REST_STEPS, REST_STEPS_MAX, DraftLength


def play(length: DraftLength, accepted_most: int, steps: int) -> int:
    """So many steps, in each of which so many tokens at most are right; tokens proposed in all."""
    proposed = 0
    for _ in range(steps):
        proposed += length.tokens
        length.note(length.tokens, min(length.tokens, accepted_most))
    return proposed


def test_what_is_always_right_is_soon_asked_for_all_it_can_do() -> None:
    """And for no more than that."""
    length = DraftLength(8)
    play(length, 8, 6)
    assert length.tokens == 8


def test_what_is_always_wrong_is_hardly_asked() -> None:
    """A few tries, then one after ever longer rests, which have an end."""
    length = DraftLength(8)
    assert play(length, 0, REST_STEPS) <= 6
    assert length.tokens == 0
    play(length, 0, 3 * REST_STEPS_MAX)
    assert play(length, 0, 10 * REST_STEPS_MAX) in (9, 10)


def test_one_token_that_is_right_ends_the_rest() -> None:
    """However long nothing was."""
    length = DraftLength(8)
    play(length, 0, 2_000)
    while not length.tokens:
        length.note(0, 0)
    length.note(1, 1)
    assert length.tokens == 1
    assert play(length, 8, 12) > 50


@pytest.mark.parametrize("run", [1, 2, 4])
def test_about_as_many_are_proposed_as_are_right_in_a_row(run: int) -> None:
    """Where it is wrong after so many, each time."""
    length = DraftLength(64)
    play(length, run, 100)
    assert run <= play(length, run, 100) / 100 <= run + 1.5


def test_without_any_to_propose_there_is_none() -> None:
    """Nor a rest."""
    length = DraftLength(0)
    assert play(length, 0, 100) == 0
