"""The one place for how a mesh's agreement went up and down in the course of a run."""

import dataclasses

from protocol.config import SECOND
from simulations.agreement import Agreement
from simulations.world import World


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """From this time on, until the next moment."""

    at_s: float
    wrong: int
    """Ordered pairs (observer, subject) in which the observer's view is not the truth."""
    suspected: int
    """Ordered pairs in which the observer suspects the subject."""


def curve_of(world: World, start_ns: int) -> list[Moment]:
    """Every moment from `start_ns` on at which anything changed; times count from there."""
    agreement = Agreement(len(world.hosts))
    moments: list[Moment] = []
    acts = [row for row in world.history if row[2] in ("start", "crash")]
    upcoming = 0
    for at_ns, observer, change in world.changes:
        while upcoming < len(acts) and acts[upcoming][0] <= at_ns:
            _act(agreement, acts[upcoming], moments, start_ns)
            upcoming += 1
        agreement.note(observer, world.host_of(change.node).index, change.state)
        _add(moments, agreement, at_ns, start_ns)
    for act in acts[upcoming:]:
        _act(agreement, act, moments, start_ns)
    return moments


def _act(
    agreement: Agreement, act: tuple[int, int, str], moments: list[Moment], start_ns: int
) -> None:
    at_ns, host, what = act
    if what == "start":
        agreement.begin(host)
    else:
        agreement.end(host)
    _add(moments, agreement, at_ns, start_ns)


def _add(moments: list[Moment], agreement: Agreement, at_ns: int, start_ns: int) -> None:
    moment = Moment(max(0, at_ns - start_ns) / SECOND, agreement.wrong, agreement.suspected)
    if moments and moments[-1].at_s == moment.at_s:
        moments[-1] = moment
    else:
        moments.append(moment)
