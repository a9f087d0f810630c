"""The one place for what a run showed, in the field's own words.

From Chen, Toueg and Aguilera, "On the quality of service of failure detectors" (2002): detection
time, mistake rate, mistake duration, query accuracy. A *mistake* is a node that is called dead
while it runs, is not stopped, and can be reached by who says so. Times are in virtual seconds.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from protocol.config import SECOND
from protocol.members import State
from simulations.history import next_start
from simulations.world import World

Measure = float | int | None
"""None: it did not happen, or not within the run."""
_PERCENTS: Final = (50, 99)
DOWN_NS_MIN: Final = 30 * SECOND
"""Who is back sooner need not have been missed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Sighting:
    """One observer's view of one subject changed."""

    at_ns: int
    observer: int
    subject: int
    state: State


class Measures:
    """Reads a world after its run; everything is counted from `start_ns` on."""

    def __init__(self, world: World, start_ns: int) -> None:
        self._world = world
        self._start_ns = start_ns
        self._sightings = [
            _Sighting(at_ns, observer, world.host_of(change.node).index, change.state)
            for at_ns, observer, change in world.changes
            if at_ns >= start_ns
        ]
        self._history = [row for row in world.history if row[0] >= start_ns]

    def all(self, *, has_formed: bool) -> dict[str, Measure]:
        """Every measure by name; those of joining if the mesh came together in that time."""
        return {
            **(self._joining() if has_formed else {}),
            **self._detection(),
            **self._goodbyes(),
            **self._mistakes(),
            **self._traffic(),
            "view_sizes": self._view_sizes(),
        }

    # ---- who is told of what, and when ----

    def _joining(self) -> dict[str, Measure]:
        """Until half, 99 % and all ordered pairs of nodes that run at the end know each other."""
        running = {host.index: None for host in self._world.running()}
        wanted = len(running) * (len(running) - 1)
        first: dict[tuple[int, int], int] = {}
        for one in self._sightings:
            is_pair = one.observer != one.subject and one.state is State.ALIVE
            if is_pair and one.observer in running and one.subject in running:
                first.setdefault((one.observer, one.subject), one.at_ns - self._start_ns)
        times = sorted(first.values())

        def after(count: int) -> float | None:
            return _seconds(times[count - 1]) if 0 < count <= len(times) else None

        return {
            "join_half_s": after(wanted // 2),
            "join_p99_s": after(wanted * 99 // 100),
            "join_last_s": after(wanted),
        }

    def _detection(self) -> dict[str, Measure]:
        """From each crash until each node that runs on says dead; from the first to the last."""
        times: list[int] = []
        lasts: list[int] = []
        spreads: list[int] = []
        unseen = crashes = 0
        for at_ns, subject, end_ns in self._crashes():
            if end_ns - at_ns < DOWN_NS_MIN and end_ns <= self._world.now:
                continue
            crashes += 1
            found: dict[int, int] = {}
            for one in self._sightings:
                is_it = one.subject == subject and one.state is State.DEAD
                if is_it and at_ns <= one.at_ns < end_ns:
                    found.setdefault(one.observer, one.at_ns - at_ns)
            observers = self._ran_through(at_ns, end_ns)
            seen = [found[observer] for observer in observers if observer in found]
            unseen += len(observers) - len(seen)
            times += seen
            if seen:
                lasts.append(max(seen))
                spreads.append(max(seen) - min(seen))
        if not crashes:
            return {}
        return {
            "crashes": crashes,
            **_percentiles("detection", times),
            "detection_last_p50_s": _percentile(lasts, 50),
            "detection_last_max_s": _percentile(lasts, 100),
            "dissemination_p50_s": _percentile(spreads, 50),
            "undetected": unseen,
        }

    def _goodbyes(self) -> dict[str, Measure]:
        """From each goodbye until all who stay say left; how many leavers were called dead."""
        lasts: list[int] = []
        unknown = 0
        dead: dict[int, None] = {}
        leavers = [
            (row, at_ns, host)
            for row, (at_ns, host, act) in enumerate(self._history)
            if act == "leave"
        ]
        for row, at_ns, subject in leavers:
            end_ns = self._next_start(row)
            found: dict[int, int] = {}
            for one in self._sightings:
                if one.subject != subject or not at_ns <= one.at_ns < end_ns:
                    continue
                if one.state is State.LEFT:
                    found.setdefault(one.observer, one.at_ns - at_ns)
                elif one.state is State.DEAD:
                    dead[subject] = None
            observers = self._ran_through(at_ns, min(end_ns, self._world.now))
            unknown += sum(observer not in found for observer in observers)
            lasts += [max(found.values())] if found else []
        if not leavers:
            return {}
        return {
            "goodbyes": len(leavers),
            "goodbye_last_p50_s": _percentile(lasts, 50),
            "goodbye_last_max_s": _percentile(lasts, 100),
            "goodbyes_unknown": unknown,
            "leavers_called_dead": len(dead),
        }

    # ---- mistakes ----

    def _mistakes(self) -> dict[str, Measure]:
        mistakes = [row for row in self._world.mistakes if row[0] >= self._start_ns]
        back: dict[tuple[int, int], list[int]] = {}
        for one in self._sightings:
            if one.state is State.ALIVE:
                back.setdefault((one.observer, one.subject), []).append(one.at_ns)
        durations = [
            next((t for t in back.get((observer, subject), []) if t > at_ns), self._world.now)
            - at_ns
            for at_ns, observer, subject in mistakes
        ]
        span_ns = self._world.now - self._start_ns
        pairs = len(self._world.hosts) * (len(self._world.hosts) - 1)
        suspicions = sum(one.state is State.SUSPECT for one in self._sightings)
        return {
            "mistakes": len(mistakes),
            "nodes_mistaken": len({subject: None for _, _, subject in mistakes}),
            "mistakes_per_node_hour": round(
                len(mistakes) * 3_600 * SECOND / max(1, span_ns) / len(self._world.hosts), 6
            ),
            "mistake_duration_p50_s": _percentile(durations, 50),
            "query_accuracy": round(1 - sum(durations) / max(1, span_ns * pairs), 9),
            "suspicions": suspicions,
        }

    # ---- cost ----

    def _traffic(self) -> dict[str, Measure]:
        node_seconds = len(self._world.hosts) * (self._world.now - self._start_ns) / SECOND
        sent = self._world.traffic
        count, total = (sum(row[i] for row in sent.values()) for i in (0, 1))
        rows: dict[str, Measure] = {
            "datagrams_per_node_s": round(count / node_seconds, 3),
            "bytes_per_node_s": round(total / node_seconds, 1),
            "datagram_bytes_max": self._world.largest_datagram,
        }
        for kind in sorted(sent):
            rows[f"sent_{kind}_per_node_s"] = round(sent[kind][0] / node_seconds, 4)
            rows[f"sent_{kind}_bytes_per_node_s"] = round(sent[kind][1] / node_seconds, 2)
        return rows

    def _view_sizes(self) -> int:
        """How many different numbers of present members were seen on the way (Rapid's measure)."""
        present: dict[int, dict[int, None]] = {}
        sizes: dict[int, None] = {}
        for at_ns, observer, change in self._world.changes:
            view = present.setdefault(observer, {})
            if at_ns >= self._start_ns:
                sizes[len(view)] = None
            if change.state in (State.ALIVE, State.SUSPECT):
                view[self._world.host_of(change.node).index] = None
            else:
                view.pop(self._world.host_of(change.node).index, None)
        sizes.update((len(view), None) for view in present.values())
        return len(sizes)

    # ---- what was true ----

    def _crashes(self) -> Iterable[tuple[int, int, int]]:
        """(when, who, until when it was down) of each end without a goodbye."""
        leaving: dict[int, None] = {}
        for row, (at_ns, host, act) in enumerate(self._history):
            if act == "leave":
                leaving[host] = None
            elif act == "start":
                leaving.pop(host, None)
            elif act == "crash" and host not in leaving:
                yield at_ns, host, self._next_start(row)

    def _next_start(self, row: int) -> int:
        back_ns = next_start(self._history, row)
        return self._world.now + 1 if back_ns is None else back_ns

    def _ran_through(self, since_ns: int, until_ns: int) -> list[int]:
        """Hosts that ran, and were not stopped, from then to then."""
        disturbed = {
            host: None
            for at_ns, host, act in self._history
            if since_ns <= at_ns < until_ns and act in ("crash", "leave", "pause", "start")
        }
        down: dict[int, None] = {}
        for at_ns, host, act in self._world.history:
            if at_ns > since_ns:
                break
            if act in ("crash", "pause"):
                down[host] = None
            elif act in ("start", "resume"):
                down.pop(host, None)
        everybody = (host.index for host in self._world.hosts)
        return [host for host in everybody if host not in disturbed and host not in down]


def _percentiles(name: str, times: Sequence[int]) -> Mapping[str, Measure]:
    return {f"{name}_p{percent}_s": _percentile(times, percent) for percent in _PERCENTS}


def _percentile(times: Sequence[int], percent: int) -> float | None:
    if not times:
        return None
    ordered = sorted(times)
    return _seconds(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)])


def _seconds(time_ns: int) -> float:
    return round(time_ns / SECOND, 6)
