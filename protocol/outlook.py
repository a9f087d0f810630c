"""The one place for what a request that has not begun waits for, as its serving node sees it."""

import dataclasses
from typing import Final

from protocol.fields import Fields

PLACE_MAX: Final = 2**31 - 1
READY_S_MAX: Final = 24 * 3600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """At one moment, for people: nothing is decided by it."""

    place: int = 0
    """In the queue, from 1; 0: it does not wait for others."""
    percent: int | None = None
    """How far its model is loaded; None: it is."""
    ready_in_s: int = 0
    """Until it is, about; 0: nothing can be said."""


NOTHING: Final = Outlook()
"""It runs, or an earlier version does not tell."""


def to_fields(outlook: Outlook) -> tuple[int, ...]:
    """The form in which a Heartbeat carries it; nothing takes no bytes."""
    if outlook == NOTHING:
        return ()
    loaded = 0 if outlook.percent is None else 1 + outlook.percent
    return (min(outlook.place, PLACE_MAX), loaded, min(outlook.ready_in_s, READY_S_MAX))


def take_outlook(fields: Fields) -> Outlook:
    """The inverse. Raises Refused(MALFORMED)."""
    if not fields.has_more:
        return NOTHING
    place, loaded = fields.take_int(0, PLACE_MAX), fields.take_int(0, 101)
    ready_in_s = fields.take_int(0, READY_S_MAX)
    return Outlook(place=place, percent=loaded - 1 if loaded else None, ready_in_s=ready_in_s)
