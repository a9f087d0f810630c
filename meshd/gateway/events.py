"""The one place that answers `GET /mesh/v1/events`: what happens in the mesh, as it happens.

The id of each server-sent event is the log's own, so that a client that comes back with
`Last-Event-ID`, as browsers do by themselves, misses nothing that is still kept.
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from meshd.answer import Mesh
from meshd.event_log import EVENTS_KEPT, Event, EventLog
from meshd.gateway.encoding import sse_comment, sse_event
from meshd.gateway.errors import Refusal
from meshd.gateway.event_stream import EventStream, openai_last_words
from meshd.gateway.exchange import Exchange
from meshd.gateway.limits import Limits

_GREETING = sse_comment("meshd events")
"""The headers leave with it: the client knows at once that it is heard."""
_ID_DIGITS_MAX = 18


class EventfulView(Protocol):
    """The part of `view.View` that the gateway sees."""

    @property
    def events(self) -> EventLog:
        """What happened lately."""
        ...


class EventfulMesh(Mesh, Protocol):
    """A mesh of which there are events to tell."""

    @property
    def view(self) -> EventfulView:
        """What the node believes."""
        ...


class EventsEndpoint:
    """Streams of events, each until its client leaves or the gateway stops."""

    def __init__(self, mesh: EventfulMesh, limits: Limits) -> None:
        self._log = mesh.view.events
        self._limits = limits
        self._open: set[trio.CancelScope] = set()

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Raises Refusal."""
        seen = self._first_seen(exchange)
        if len(self._open) >= self._limits.event_streams_max:
            raise Refusal("overloaded", "Too many follow the events already; try again later.")
        stream = EventStream(exchange, headers=list, last_words=openai_last_words)
        if exchange.scope["method"] == "HEAD":
            await stream.finish(b"")
            return
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await self._pass_on(stream, seen)
            finally:
                self._open.discard(scope)
        await stream.finish(b"")

    def end(self) -> None:
        """End all streams; they would not end by themselves."""
        for scope in self._open:
            scope.cancel()

    async def _pass_on(self, stream: EventStream, seen: int) -> None:
        async with stream.kept_alive(self._limits):
            await stream.write(_GREETING)
            while True:
                events = await self._log.after(seen)
                seen = events[-1]["id"]
                await stream.write(_encoded(events))

    def _first_seen(self, exchange: Exchange) -> int:
        """The id after which the client wants to hear. Raises Refusal."""
        id_max = 10**_ID_DIGITS_MAX - 1
        for name, text in (
            ("last-event-id", exchange.headers.get("last-event-id")),
            ("since", exchange.query.get("since")),
        ):
            if text is not None:
                return _number(name, text, id_max)
        return self._log.id_before(
            _number("recent", exchange.query.get("recent", "0"), EVENTS_KEPT)
        )


def _number(name: str, text: str, most: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS_MAX
    if not is_number or int(text) > most:
        message = f"Invalid '{name}': must be a whole number from 0 to {most}."
        raise Refusal("bad_request", message, param=name)
    return int(text)


def _encoded(events: Sequence[Event]) -> bytes:
    return b"".join(sse_event(each, kind=each["type"], number=each["id"]) for each in events)
