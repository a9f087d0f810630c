"""At most so many per second."""

from protocol.allowance import Allowance
from protocol.config import SECOND


def test_grants_its_rate_in_each_second() -> None:
    """What one second does not use is not saved for the next."""
    allowance = Allowance(3)
    granted = [
        sum(allowance.take(now) for _ in range(10)) for now in (5 * SECOND, 7 * SECOND, 8 * SECOND)
    ]
    assert granted == [3, 3, 3]


def test_a_second_begins_with_its_first_use() -> None:
    """Within one second nothing comes back."""
    allowance = Allowance(1)
    assert allowance.take(10 * SECOND)
    assert not allowance.take(11 * SECOND - 1)
    assert allowance.take(11 * SECOND)


def test_zero_grants_nothing() -> None:
    """A rate of zero switches something off."""
    assert not Allowance(0).take(10 * SECOND)
