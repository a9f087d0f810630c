"""The simulator's own pace: that it is told, not how fast it is."""

from protocol.config import SECOND
from simulations.bench import bench
from simulations.whole import whole_world


def test_a_mesh_is_whole_from_its_first_moment() -> None:
    """Everybody knows everybody, nothing is left to spread, and nobody dies of it."""
    world = whole_world(12, seed=1)
    assert world.is_converged()
    world.run(30 * SECOND)
    assert world.is_converged()
    assert world.mistakes == []
    assert world.drops == {}  # they have met each other, too


def test_strangers_meet_first() -> None:
    """Unless they have met, each pair begins with challenges."""
    world = whole_world(6, seed=1, are_acquainted=False)
    world.run(5 * SECOND)
    assert world.is_converged()
    assert world.traffic["challenge"][0] > 0


def test_the_pace_is_told() -> None:
    """All figures are there, and sensible."""
    pace = bench(8, 2.0, starved=1)
    assert (pace.nodes, pace.starved) == (8, 1)
    assert pace.node_seconds_per_second > 0
    assert pace.datagrams_per_second > 0
    assert 1 < pace.datagrams_per_node_second < 50
    assert not pace.is_compiled
    assert pace.to_json()["node_seconds_per_second"] == pace.node_seconds_per_second
    assert pace.meeting_node_seconds_per_second is None


def test_meeting_has_its_own_pace() -> None:
    """Two datagrams a node-second when all have met, four while each probe meets a stranger."""
    pace = bench(40, 5.0)
    assert 1.9 < pace.datagrams_per_node_second < 2.1
    assert pace.meeting_node_seconds_per_second is not None
    assert pace.meeting_node_seconds_per_second > 0
    assert pace.meeting_datagrams_per_node_second is not None
    assert 3.5 < pace.meeting_datagrams_per_node_second < 4.1
