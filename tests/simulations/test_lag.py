"""What a driver says that wakes its node late: the same as the daemon's."""

from meshd import gossip
from protocol.config import MILLISECOND, SECOND
from protocol.events import Delayed, Resumed
from simulations.lag import GAP_NS, LAG_NS, LAG_PAUSE_NS, Lag


def test_the_values_are_the_daemons() -> None:
    """A simulated driver tells what a real one would."""
    assert (GAP_NS, LAG_NS, LAG_PAUSE_NS) == (gossip.GAP_NS, gossip.LAG_NS, gossip.LAG_PAUSE_NS)


def test_by_how_much_it_was_late() -> None:
    """Nothing, a lag, a gap."""
    assert Lag().word(LAG_NS, SECOND) is None
    assert Lag().word(LAG_NS + 1, SECOND) == Delayed(LAG_NS + 1)
    assert Lag().word(GAP_NS, SECOND) == Delayed(GAP_NS)
    assert Lag().word(GAP_NS + 1, SECOND) == Resumed(GAP_NS + 1)


def test_lags_are_told_once_a_second() -> None:
    """Who is late at every turn says so now and then; a gap is always told."""
    lag, told = Lag(), list[int]()
    for at in range(1, 30):
        if lag.word(SECOND, at * 100 * MILLISECOND) is not None:
            told.append(at)
    assert told == [1, 12, 23]
    assert lag.word(GAP_NS + 1, 3 * SECOND) is not None
    assert lag.word(GAP_NS + 1, 3 * SECOND) is not None
