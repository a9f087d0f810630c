"""The one place for what happened lately: a bounded log of events that many can follow.

An event is what `/mesh/v1/events` and `meshd events` show: `{"id", "time", "type", "node",
"name", ...}`. Its id is a number that grows by one with each event.

Rule 1: the log itself is everybody's queue. Whoever follows keeps only the id of the last event
seen, so nobody who is slow holds anything up, or holds any memory.
Rule 2: a gap is told. Who comes back for events that the log no longer has gets `lagged` first,
with how many were missed (None: nobody knows, as they belong to an earlier run), and goes on
with the oldest that is kept.
Rule 3: ids count up from the time at which this run began (wall clock, microseconds). So a run
gives no id of an earlier one, and who was there before a restart is known by the id it has.
"""

import datetime
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from protocol.effects import (
    Effect,
    Equivocated,
    Evicted,
    MembershipChanged,
    OffersChanged,
    Partitioned,
    Reunited,
    Superseded,
)
from protocol.identity import NodeId, key_text

EVENTS_KEPT: Final = 1_000
LAGGED: Final = "lagged"

Event = Mapping[str, Any]


class EventLog:
    """The last `EVENTS_KEPT` events of this run of the node."""

    def __init__(self, own: NodeId, name: Callable[[NodeId], str]) -> None:
        """`own`: this node, whom events without another subject are about; `name`: of a member."""
        self._own = own
        self._name = name
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._start = int(_now().timestamp() * 1_000_000)
        self._last = self._start
        self._arrived = trio.Event()

    @property
    def last_id(self) -> int:
        """The id of the newest event; where who wants only new ones begins."""
        return self._last

    def note(self, effect: Effect) -> None:
        """Keep what the node reports, if it is an event, and wake those who wait for one."""
        told = event_of(effect, self._own, self._name)
        if told is None:
            return
        self._last += 1
        self._events.append(self._stamped(self._last, told))
        self._arrived.set()
        self._arrived = trio.Event()

    def recent(self, count: int) -> Sequence[Event]:
        """The newest `count` events, or as many as are kept; the oldest of them first."""
        return self._newest(min(count, len(self._events)))

    def id_before(self, count: int) -> int:
        """The id after which the newest `count` events follow."""
        return self._last - min(count, len(self._events))

    async def after(self, seen: int) -> Sequence[Event]:
        """The events after the one with the id `seen`, waiting until there is one.

        `seen` 0 means the beginning of this run. Go on with the id of the last that is returned.
        """
        seen = seen or self._start
        while seen == self._last:
            await self._arrived.wait()
        kept = len(self._events)
        if not self._start <= seen <= self._last:
            # Of another run: what it saw of this one is nothing.
            return [self._lagged(None), *self._newest(kept)]
        missed = self._last - kept - seen
        if missed > 0:
            return [self._lagged(missed), *self._newest(kept)]
        return self._newest(self._last - seen)

    def _newest(self, count: int) -> Sequence[Event]:
        events = list(self._events)
        return events[len(events) - count :]

    def _lagged(self, missed: int | None) -> Event:
        """Stands for all that is not kept, under the id of the last of these."""
        about = {"node": key_text(self._own), "name": self._name(self._own)}
        told = {"type": LAGGED, **about, "missed": missed}
        return self._stamped(self._last - len(self._events), told)

    @staticmethod
    def _stamped(number: int, told: Event) -> Event:
        return {"id": number, "time": _now().isoformat(timespec="milliseconds"), **told}


def event_of(effect: Effect, own: NodeId, name: Callable[[NodeId], str]) -> Event | None:
    """What people are told of an effect, without id and time; None where it is none of theirs.

    `previous` is the state before, None for who was unknown; equal to `type`: a new name or
    address, or the answer to an accusation that never became a suspicion here.
    """
    about, called = own, ""
    match effect:
        case MembershipChanged():
            about, called = effect.node, effect.name
            kind = str(effect.state)
            previous = str(effect.previous) if effect.previous is not None else None
            more: Event = {"incarnation": effect.incarnation, "previous": previous}
        case OffersChanged():
            about, kind = effect.node, "offer"
            more = {"key": effect.offer.key, "removed": not effect.offer.value}
        case Partitioned():
            kind, more = "partition", {"lost": effect.lost, "present": effect.present}
        case Reunited():
            kind, more = "reunited", {"present": effect.present}
        case Superseded():
            kind, more = "superseded", {"incarnation": effect.incarnation}
        case Evicted():
            about, kind, more = effect.node, "evicted", {"revoked": effect.is_revoked}
        case Equivocated():
            about, kind, more = effect.node, "equivocation", {}
        case _:
            return None
    return {"type": kind, "node": key_text(about), "name": called or name(about), **more}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
