"""What the measure of herding finds, and what it lets pass."""

import functools
import random

import pytest

from protocol.messages import Load
from simulations.inference.herding import Herding

SERVERS = 40


def _swing(*moments: list[int]) -> int | None:
    """Of one class of machines with four slots, that have so many requests at each moment."""
    present = list(moments[0])

    def asked(server: int) -> Load:
        return Load(0, present[server], 4)

    herding = Herding({"x": [functools.partial(asked, at) for at in range(len(present))]})
    for moment in moments:
        present[:] = moment
        herding.look()
    return herding.swing_milli


def test_who_is_rushed_and_shunned_in_turns_swings() -> None:
    """Full machines and idle ones change places every three seconds: a half beyond the mean."""
    moments = [
        [4 if (moment // 6 + server) % 2 else 0 for server in range(SERVERS)]
        for moment in range(96)
    ]
    assert _swing(*moments) == pytest.approx(500, abs=10)


def test_what_only_wanders_swings_not() -> None:
    """Queues that grow and shrink by chance, each on its own."""
    rng = random.Random(1)
    moments = [[8] * SERVERS]
    for _ in range(400):
        moments.append([max(0, min(16, many + rng.choice((-1, 1)))) for many in moments[-1]])
    swing = _swing(*moments[100:])
    assert swing is not None
    assert swing < 250


def test_what_all_have_alike_is_nobodys_swing() -> None:
    """A burst of requests that is spread evenly; machines that are always busier than others."""
    moments = [[(moment // 6) % 2 * 4] * SERVERS for moment in range(96)]
    assert _swing(*moments) == 0
    assert _swing(*[[server % 5 for server in range(SERVERS)]] * 96) == 0


def test_of_one_alone_nothing_is_said() -> None:
    """It has nobody to change places with."""
    assert _swing([4], [0], [4], [0]) is None
