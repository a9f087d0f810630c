"""What a request waits for, as its client is told."""

from meshd.waits import Waits
from protocol.outlook import NOTHING, Outlook


def test_of_several_attempts_the_last_one_under_way_is_asked() -> None:
    """When it ends, the one before tells again."""
    waits = Waits()
    assert waits.now() == NOTHING
    first, second = Outlook(place=3), Outlook(place=1)
    with waits.told_by(lambda: first):
        with waits.told_by(lambda: second):
            assert waits.now() == second
        assert waits.now() == first
    assert waits.now() == NOTHING
