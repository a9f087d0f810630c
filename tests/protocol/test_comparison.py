"""Who knows better."""

import pytest

from protocol.comparison import judge
from protocol.digest import DEAD, LEFT, PRESENT
from protocol.messages import Entry


def _entry(state: int, incarnation: int, content: int = 0) -> Entry:
    return Entry(bytes(8), state, incarnation, content)


NOTHING, ASK, SEND, BOTH = (False, False), (True, False), (False, True), (True, True)


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        (None, _entry(PRESENT, 1), ASK),
        (None, _entry(LEFT, 1), ASK),
        (None, _entry(DEAD, 1), NOTHING),
        (_entry(PRESENT, 1), None, SEND),
        (_entry(LEFT, 1), None, SEND),
        (_entry(DEAD, 1), None, NOTHING),
        (_entry(PRESENT, 1, 7), _entry(PRESENT, 1, 7), NOTHING),
        (_entry(PRESENT, 1, 7), _entry(PRESENT, 1, 8), BOTH),
        (_entry(PRESENT, 1), _entry(PRESENT, 2), ASK),
        (_entry(PRESENT, 2), _entry(PRESENT, 1), SEND),
        (_entry(PRESENT, 1), _entry(LEFT, 1), ASK),
        (_entry(LEFT, 1), _entry(PRESENT, 1), SEND),
        (_entry(LEFT, 1), _entry(PRESENT, 2), ASK),
        (_entry(PRESENT, 2), _entry(LEFT, 1), SEND),
        (_entry(LEFT, 1), _entry(LEFT, 1), NOTHING),
        (_entry(PRESENT, 1), _entry(DEAD, 1), ASK),
        (_entry(DEAD, 1), _entry(PRESENT, 1), BOTH),
        (_entry(DEAD, 1), _entry(PRESENT, 2), ASK),
        (_entry(PRESENT, 1), _entry(DEAD, 2), ASK),
        (_entry(DEAD, 2), _entry(LEFT, 1), SEND),
        (_entry(DEAD, 1), _entry(LEFT, 1), ASK),
        (_entry(LEFT, 1), _entry(DEAD, 1), SEND),
        (_entry(DEAD, 1), _entry(DEAD, 2), NOTHING),
        (_entry(DEAD, 2), _entry(DEAD, 1), NOTHING),
    ],
)
def test_who_knows_better(
    mine: Entry | None, theirs: Entry | None, verdict: tuple[bool, bool]
) -> None:
    """Newer lives, goodbyes, accusations; never a death for who did not know the member."""
    assert judge(mine, theirs) == verdict
