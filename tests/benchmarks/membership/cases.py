"""The one place for what is done to a mesh and what is measured then, whatever daemon it is of.

Each case runs on a machine of its own kind (`open_fleet` gives it daemons in a place) and yields
one row of figures per run. None means: not within the limit.
"""

import contextlib
import dataclasses
import random
import signal
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

from meshd.failures import UserError
from tests.benchmarks.membership import cost
from tests.benchmarks.membership.fleet import WHOLE_S, Fleet
from tests.benchmarks.membership.places import CannotRun, Place, cable, one_namespace
from tests.benchmarks.membership.sightings import ALIVE, DEAD, LEFT, SUSPECT

LIMIT_S: Final = 90.0
"""What takes longer counts as never."""
POLL_S: Final = 0.1

Row = dict[str, float | None]
Rows = Generator[Row, None, None]
OpenFleet = Callable[[Callable[[str], Place]], contextlib.AbstractContextManager[Fleet]]
"""Makes the daemons' fleet, given where each of them runs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of a case is run."""

    nodes: int
    runs: int
    settle_s: float = 8.0
    """Rest before a measurement, so that what came before is over."""
    long_s: float = 75.0
    """How long a partition lasts."""
    idle_s: float = 40.0
    pauses_s: tuple[float, ...] = (5.0, 20.0)

    @property
    def names(self) -> list[str]:
        """The first is everybody's seed and is not harmed."""
        return [f"n{number}" for number in range(self.nodes)]


def _here(name: str) -> Place:
    del name
    return Place()


def join_storm(open_fleet: OpenFleet, size: Size) -> Rows:
    """Running daemons that know nobody join at once through one seed, a new mesh each run."""
    names = size.names
    for _ in range(size.runs):
        with open_fleet(_here) as fleet:
            fleet.start(names[:1])
            for begin in range(1, len(names), 8):
                fleet.start(names[begin : begin + 8])
            fleet.listener.rest(size.settle_s)
            began_s = fleet.join(names[1:], names[0])
            mark = fleet.sightings.mark()
            is_whole = fleet.listener.until(lambda: fleet.is_whole(names), WHOLE_S)
            if not is_whole:
                fleet.explain(names)
            pairs = fleet.sightings.pairs(mark, ALIVE)
            times = [at_s - began_s for at_s in sorted(pairs.values())]
            yield {
                "half of all pairs s": _nth(times, len(names) * (len(names) - 1) // 2),
                "99 % of all pairs s": _nth(times, len(names) * (len(names) - 1) * 99 // 100),
                "until all see all s": times[-1] if is_whole else None,
            }


def _nth(times: Sequence[float], number: int) -> float | None:
    return times[number - 1] if number <= len(times) else None


def _rest(fleet: Fleet, size: Size) -> None:
    """Up to one probe interval more or less each time: what ends a run is in step with the probes,
    and the next fault must not be.
    """
    fleet.listener.rest(size.settle_s + random.random())  # not for keys


def death(open_fleet: OpenFleet, size: Size) -> Rows:
    """kill -9 of one after the other, each started again in between; its host answers."""
    with open_fleet(_here) as fleet:
        fleet.form(size.names)
        for victim in _victims(size):
            _rest(fleet, size)
            mark = fleet.sightings.mark()
            row = _wait_dead(fleet, size.names, victim, mark, fleet.kill(victim))
            yield {**row, **_false_deaths(fleet, mark, [victim])}
            fleet.restart(victim, size.names[0], other_port=False)
            fleet.wait_whole(size.names)


def host_gone(open_fleet: OpenFleet, size: Size) -> Rows:
    """All packets between one host and all others vanish, silently; it comes back in between."""
    victim = size.names[-1]
    with cable() as line:
        place_of = {victim: line.far}
        with open_fleet(lambda name: place_of.get(name, line.near)) as fleet:
            fleet.form(size.names)
            for _ in range(size.runs):
                _rest(fleet, size)
                mark = fleet.sightings.mark()
                line.cut()
                began_s = _now()
                try:
                    row = _wait_dead(fleet, size.names, victim, mark, began_s)
                    false = _false_deaths(fleet, mark, [victim], not_by=[victim])
                finally:
                    line.heal()
                yield {**row, **false}
                fleet.wait_whole(size.names)


def pause(open_fleet: OpenFleet, size: Size) -> Rows:
    """SIGSTOP of one process for a short and for a long time."""
    with open_fleet(_here) as fleet:
        fleet.form(size.names)
        for victim in _victims(size):
            row: Row = {}
            for seconds in size.pauses_s:
                fleet.listener.rest(size.settle_s)
                found = _pause_once(fleet, size.names, victim, seconds)
                row.update({f"{key} ({seconds:g} s)": value for key, value in found.items()})
            yield row


def _pause_once(fleet: Fleet, names: Sequence[str], victim: str, seconds: float) -> Row:
    mark = fleet.sightings.mark()
    fleet.signal(victim, signal.SIGSTOP)
    fleet.listener.rest(seconds)
    said_dead = len(fleet.sightings.firsts(mark, victim, DEAD))
    awake = fleet.sightings.mark()
    woken_s = fleet.signal(victim, signal.SIGCONT)
    is_whole = fleet.listener.until(lambda: fleet.is_whole(names), LIMIT_S)
    backs = fleet.sightings.firsts(awake, victim, ALIVE).values()
    back_s = max((at_s - woken_s for at_s in backs), default=0.0) if is_whole else None
    fleet.listener.rest(15.0)
    doubts = fleet.sightings.since(awake, states=(SUSPECT, DEAD))
    return {
        "observers that said dead": said_dead,
        "back everywhere after waking s": back_s,
        "accusations by it after waking": sum(one.observer == victim for one in doubts),
        **_false_deaths(fleet, mark, [victim]),
    }


def massacre(open_fleet: OpenFleet, size: Size) -> Rows:
    """Half of them are killed at once; a new mesh each run."""
    names = size.names
    victims = names[len(names) // 2 :]
    survivors = names[: len(names) // 2]
    for _ in range(size.runs):
        with open_fleet(_here) as fleet:
            fleet.form(names)
            fleet.listener.rest(size.settle_s)
            mark = fleet.sightings.mark()
            began_s = min([fleet.kill(victim) for victim in victims])

            def are_known(fleet: Fleet = fleet) -> bool:
                return fleet.sightings.do_all_say(survivors, victims, DEAD)

            is_known = fleet.listener.until(are_known, LIMIT_S)
            deaths = [one.at_s for one in fleet.sightings.since(mark, states=(DEAD,))]
            yield {
                "first dead s": min(deaths) - began_s if deaths else None,
                "all dead everywhere s": max(deaths) - began_s if is_known else None,
                **_false_deaths(fleet, mark, victims),
            }


def leave(open_fleet: OpenFleet, size: Size) -> Rows:
    """One after the other says goodbye in order, and is started again in between."""
    with open_fleet(_here) as fleet:
        fleet.form(size.names)
        for leaver in _victims(size):
            fleet.listener.rest(size.settle_s)
            others = [name for name in size.names if name != leaver]
            mark = fleet.sightings.mark()
            began_s = fleet.leave(leaver)

            def is_known(others: list[str] = others, leaver: str = leaver) -> bool:
                return fleet.sightings.do_all_say(others, [leaver], LEFT)

            is_over = fleet.listener.until(is_known, LIMIT_S)
            known = fleet.sightings.firsts(mark, leaver, LEFT)
            fleet.listener.until(lambda: fleet.has_ended(leaver), LIMIT_S)  # noqa: B023  # used at once
            fleet.listener.rest(15.0)  # long enough for a suspicion to end
            yield {
                "all say left s": max(known.values()) - began_s if is_over else None,
                "observers that said dead": len(fleet.sightings.firsts(mark, leaver, DEAD)),
                **_false_deaths(fleet, mark, [leaver]),
            }
            fleet.restart(leaver, size.names[0], other_port=False)
            fleet.wait_whole(size.names)


def restart(open_fleet: OpenFleet, size: Size) -> Rows:
    """kill -9, and at once started again on another port; asked of each, ten times a second."""
    for victim in _victims(size):
        with open_fleet(_here) as fleet:
            fleet.form(size.names)
            fleet.listener.rest(size.settle_s)
            old_port = fleet.port(victim)
            mark = fleet.sightings.mark()
            began_s = fleet.kill(victim)
            fleet.restart(victim, size.names[0], other_port=True)
            waiting = list(size.names)
            while waiting and _now() - began_s < LIMIT_S:
                fleet.listener.rest(POLL_S)
                waiting = [
                    name
                    for name in waiting
                    if not _sees_back(fleet, name, victim, size.names, old_port)
                ]
            yield {
                "back everywhere s": None if waiting else _now() - began_s,
                "never back at": len(waiting),
                "observers that said dead": len(fleet.sightings.firsts(mark, victim, DEAD)),
                **_false_deaths(fleet, mark, [victim]),
            }


def _sees_back(fleet: Fleet, name: str, victim: str, names: Sequence[str], old_port: int) -> bool:
    """Whether it sees the victim where it is now, or, being the victim, everybody."""
    if fleet.has_ended(name):
        return False
    try:
        members = fleet.members(name)
    except (OSError, UserError, ValueError):
        return False  # it is starting, or gone
    if name == victim:
        return all(members.get(other, ("", 0))[0] == ALIVE for other in names)
    state, port = members.get(victim, ("", 0))
    return state == ALIVE and port not in (0, old_port) and port == fleet.port(victim)


def partition(open_fleet: OpenFleet, size: Size) -> Rows:
    """Half of them are cut off from the others, long enough to be given up; then it heals."""
    names = size.names
    near, far = names[: len(names) // 2], names[len(names) // 2 :]
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(cable())
        place_of = {**dict.fromkeys(near, line.near), **dict.fromkeys(far, line.far)}
        fleet = stack.enter_context(open_fleet(place_of.__getitem__))
        fleet.form(names)
        for _ in range(size.runs):
            _rest(fleet, size)
            mark = fleet.sightings.mark()
            line.cut()
            began_s = _now()
            try:
                fleet.listener.rest(size.long_s)
            finally:
                line.heal()
            yield {
                **_across(fleet, mark, began_s, near, far),
                "one view after healing s": _wait_healed(fleet, names),
            }


def _across(
    fleet: Fleet, mark: int, began_s: float, near: Sequence[str], far: Sequence[str]
) -> Row:
    """What the sides of a cut said of each other, and of their own."""
    deaths = fleet.sightings.pairs(mark, DEAD)
    firsts = {pair: at for pair, at in deaths.items() if (pair[0] in near) != (pair[1] in near)}
    pairs = 2 * len(near) * len(far)
    is_complete = len(firsts) == pairs
    return {
        "first across dead s": min(firsts.values()) - began_s if firsts else None,
        "all across dead s": max(firsts.values()) - began_s if is_complete else None,
        "pairs across not dead": pairs - len(firsts),
        "deaths on the own side": len(deaths) - len(firsts),
    }


def _wait_healed(fleet: Fleet, names: Sequence[str]) -> float | None:
    mark, began_s = fleet.sightings.mark(), _now()
    if not fleet.listener.until(lambda: fleet.is_whole(names), WHOLE_S):
        raise CannotRun(f"the mesh of {fleet.title} did not heal in {WHOLE_S:g} s")
    last_s = fleet.sightings.last_change_s(mark)
    return last_s - began_s if last_s is not None else 0.0


def idle(open_fleet: OpenFleet, size: Size) -> Rows:
    """Nobody does anything, in a network namespace of their own."""
    with one_namespace() as place:
        for _ in range(size.runs):
            with open_fleet(lambda _: place) as fleet:
                fleet.form(size.names)
                fleet.listener.rest(3 * size.settle_s)
                pids = [fleet.pid(name) for name in size.names]
                before = cost.read(pids)
                fleet.listener.rest(size.idle_s)
                yield {**cost.between(before, cost.read(pids)), **cost.memory(pids)}


# ---- what several cases do ----


def _now() -> float:
    return time.monotonic()


def _victims(size: Size) -> list[str]:
    """Another one each run; never the seed."""
    return [size.names[1 + run % (size.nodes - 1)] for run in range(size.runs)]


def _wait_dead(fleet: Fleet, names: Sequence[str], victim: str, mark: int, began_s: float) -> Row:
    """Wait until each of the others has said dead, and tell when."""

    def deaths() -> dict[str, float]:
        return fleet.sightings.firsts(mark, victim, DEAD)

    is_known = fleet.listener.until(lambda: len(deaths()) == len(names) - 1, LIMIT_S)
    suspicions = fleet.sightings.firsts(mark, victim, SUSPECT).values()
    times = deaths().values()
    return {
        "first suspect s": min(suspicions) - began_s if suspicions else None,
        "first dead s": min(times) - began_s if times else None,
        "last dead s": max(times) - began_s if is_known else None,
    }


def _false_deaths(fleet: Fleet, mark: int, gone: Sequence[str], not_by: Sequence[str] = ()) -> Row:
    deaths = fleet.sightings.since(mark, states=(DEAD,))
    false = [one for one in deaths if one.subject not in gone and one.observer not in not_by]
    return {"false deaths": len(false)}
