"""Loads by a fixed delay: how old they are, and that they are as they were."""

import random

from protocol.config import SECOND
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.speeds import Speed
from simulations.inference.hearsay import Hearsay, History
from simulations.timeline import Timeline

NODES = [NodeId(bytes([n]) * 32) for n in range(40)]


class Ear:
    """What a view would hear."""

    def __init__(self) -> None:
        self.heard: dict[NodeId, tuple[int, Load, Speed | None]] = {}

    def hear(self, node: NodeId, at_ns: int, load: Load, speed: Speed | None) -> None:
        """The last word counts."""
        self.heard[node] = at_ns, load, speed


def test_ages_are_between_the_two_and_loads_as_they_were() -> None:
    """At any moment, of everybody; and most of the span is there."""
    timeline, ear = Timeline(), Ear()
    histories = {node: History(4) for node in NODES}
    for node in NODES:
        for second in range(30):
            histories[node].note(second * SECOND, Load(second, 0, 4), Speed(second + 1, 1))
    hearsay = Hearsay(timeline, histories, (SECOND, 5 * SECOND), ear.hear, random.Random(1))
    timeline.run(10 * SECOND)
    hearsay.begin(25 * SECOND)
    ages: list[int] = []
    for _ in range(40):
        timeline.run(SECOND // 4)
        for at_ns, load, speed in ear.heard.values():
            assert load.queued == at_ns // SECOND
            assert speed == Speed(load.queued + 1, 1)
            ages.append(timeline.now - at_ns)
    assert len(ear.heard) == len(NODES)
    later = ages[len(ages) // 2 :]
    assert min(later) < 1.5 * SECOND
    assert min(ages) >= SECOND
    assert 4.5 * SECOND < max(later) <= 5.3 * SECOND


def test_before_its_first_word_a_server_was_idle() -> None:
    """And no other machine than later."""
    history = History(4)
    assert history.as_of(5) == (Load(0, 0, 4), None)
    history.note(10, Load(1, 4, 4), Speed(7, 8))
    assert history.as_of(5) == (Load(0, 0, 4), Speed(7, 8))
    assert history.as_of(10) == (Load(1, 4, 4), Speed(7, 8))
