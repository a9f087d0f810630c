"""Published formulas about gossip, for `science.py` to compare with; times in periods or rounds."""

import math


def mean_random(members: int) -> float:
    """Expected periods until one of n - 1 members draws the dead one: e/(e - 1) for large n."""
    others = members - 1
    return 1 / (1 - (1 - 1 / others) ** others)


def mean_round_robin(members: int) -> float:
    """The same when each goes through its list; also e/(e - 1) for large n."""
    others = members - 1
    return math.fsum((1 - k / others) ** others for k in range(others))


def mean_own_phases(members: int) -> float:
    """Periods until the end of the first failed probe, each member in its own phase: the least of
    n - 1 uniform waits of up to n - 1 periods, and the period of the probe itself."""
    return 1 + (members - 1) / members


def logistic(members: int, periods: float) -> float:
    """SWIM's estimate of the infected, of n, after so many periods."""
    rate = 2 - 4 / members
    return members / (1 + (members - 1) * math.exp(-rate * periods))


def logistic_time(members: int, infected: float) -> float:
    """Its inverse."""
    rate = 2 - 4 / members
    return math.log((members - 1) * infected / (members - infected)) / rate


def serf_infected(
    members: int, rounds: float, *, fanout: int, loss: float = 0.0, failed: float = 0.0
) -> float:
    """The share of the infected by Serf's "convergence simulator", a closed formula (its website,
    deleted in 2024): it knows of no limit on how often a rumour is sent."""
    contacts = fanout / members * (1 - loss) * (1 - failed) * 0.5
    return 1 / (1 + (members + 1) * math.exp(-contacts * members * rounds))


def serf_rounds(members: int, share: float, *, fanout: int, loss: float = 0.0) -> float:
    """Its inverse: rounds until such a share is infected."""
    contacts = fanout / members * (1 - loss) * 0.5
    return math.log((members + 1) * share / (1 - share)) / (contacts * members)
