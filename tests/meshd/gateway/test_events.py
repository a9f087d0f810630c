"""`GET /mesh/v1/events`, over real TCP: what is told, from where on, to how many, until when."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from meshd.event_log import EVENTS_KEPT
from meshd.gateway.limits import Limits
from protocol.effects import Reunited
from tests.meshd.gateway.fake_mesh import FakeMesh
from tests.meshd.gateway.raw_http import (
    LIMITS,
    Running,
    gateway,
    read_reply,
    read_until,
    request_bytes,
)

PATH = "/mesh/v1/events"


def _happen(mesh: FakeMesh, count: int = 1) -> None:
    for number in range(count):
        mesh.view.events.note(Reunited(number))


class Followed:
    """One client's stream, with the chunks of HTTP taken off."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._text = b""
        self._raw = b""
        self.head = b""

    async def begin(self) -> None:
        """Read the answer's headers."""
        self.head, _, self._raw = (await read_until(self._stream, b"\r\n\r\n")).partition(
            b"\r\n\r\n"
        )

    async def block(self) -> bytes:
        """The next event or comment, without its blank line; empty at the stream's proper end."""
        while b"\n\n" not in self._text:
            chunk = await self._chunk()
            if not chunk:
                return b""
            self._text += chunk
        block, _, self._text = self._text.partition(b"\n\n")
        return block

    async def event(self) -> dict[str, Any]:
        """The next event's data; its id and type agree with it."""
        while (block := await self.block()).startswith(b":"):
            pass
        number, kind, data = block.split(b"\n")
        content: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
        assert number == b"id: %d" % content["id"]
        assert kind == b"event: %b" % content["type"].encode()
        return content

    async def _chunk(self) -> bytes:
        while b"\r\n" not in self._raw:
            await self._more()
        size_text, _, self._raw = self._raw.partition(b"\r\n")
        size = int(size_text, 16)
        while len(self._raw) < size + 2:
            await self._more()
        chunk, self._raw = self._raw[:size], self._raw[size + 2 :]
        return chunk

    async def _more(self) -> None:
        data = await self._stream.receive_some(65536)
        assert data, "cut off"
        self._raw += data


async def _room(running: Running) -> None:
    """Wait until there is room for one more; `gateway` bounds it."""
    while (await running.ask("HEAD", PATH)).status == 503:
        pass


@contextlib.asynccontextmanager
async def following(running: Running, query: str = "", **headers: str) -> AsyncIterator[Followed]:
    """A client that has heard the greeting."""
    async with await running.connect() as stream:
        await stream.send_all(request_bytes("GET", PATH + query, b"", **headers))
        followed = Followed(stream)
        await followed.begin()
        assert followed.head.startswith(b"HTTP/1.1 200 ")
        assert await followed.block() == b": meshd events"
        yield followed


def test_events_come_as_they_happen() -> None:
    """Headers at once, then only what is new, each as a typed event of one line of ASCII."""

    async def main() -> None:
        mesh = FakeMesh()
        _happen(mesh, 3)
        async with gateway(mesh) as running, following(running) as followed:
            assert b"content-type: text/event-stream" in followed.head
            assert b"cache-control: no-store" in followed.head
            for _ in range(2):
                _happen(mesh)
                assert await followed.event() == mesh.view.events.recent(1)[0]

    trio.run(main)


@pytest.mark.parametrize("by", ["header", "since", "both"])
def test_who_comes_back_misses_nothing(by: str) -> None:
    """After the id that it names; a browser's own header goes before the address."""

    async def main() -> None:
        mesh = FakeMesh()
        _happen(mesh, 5)
        old, seen, *missed = mesh.view.events.recent(5)
        query = f"?since={(old if by == 'both' else seen)['id']}&recent=1" if by != "header" else ""
        headers = {"last_event_id": str(seen["id"])} if by != "since" else {}
        async with gateway(mesh) as running, following(running, query, **headers) as followed:
            assert [await followed.event() for _ in missed] == list(missed)
            _happen(mesh)
            assert await followed.event() == mesh.view.events.recent(1)[0]

    trio.run(main)


def test_the_recent_ones_can_be_asked_for() -> None:
    """So many, or what there is."""

    async def main() -> None:
        mesh = FakeMesh()
        _happen(mesh, 5)
        async with gateway(mesh) as running:
            for recent, expected in (("2", 2), (str(EVENTS_KEPT), 5)):
                async with following(running, f"?recent={recent}") as followed:
                    events = [await followed.event() for _ in range(expected)]
                    assert events == mesh.view.events.recent(expected)

    trio.run(main)


def test_what_is_no_longer_kept_is_told_as_missed() -> None:
    """`lagged`, with how many."""

    async def main() -> None:
        mesh = FakeMesh()
        _happen(mesh)
        seen = mesh.view.events.last_id
        _happen(mesh, EVENTS_KEPT + 3)
        async with gateway(mesh) as running, following(running, f"?since={seen}") as followed:
            lagged = await followed.event()
            assert (lagged["type"], lagged["missed"]) == ("lagged", 3)
            assert await followed.event() == mesh.view.events.recent(EVENTS_KEPT)[0]

    trio.run(main)


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ("?since=x", {}, "since"),
        ("?since=", {}, "since"),
        ("?since=-1", {}, "since"),
        ("?since=1e3", {}, "since"),
        ("?since=%D9%A3", {}, "since"),
        ("?since=1000000000000000000", {}, "since"),
        (f"?since={'9' * 5_000}", {}, "since"),
        ("?recent=1001", {}, "recent"),
        ("?recent=two", {}, "recent"),
        ("", {"last_event_id": "abc"}, "last-event-id"),
    ],
)
def test_no_number_is_refused(query: str, headers: dict[str, str], param: str) -> None:
    """Before anything is streamed, in the API's own shape."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            reply = await running.ask("GET", PATH + query, b"", **headers)
            assert (reply.status, reply.error["param"]) == (400, param)

    trio.run(main)


def test_silence_is_broken_by_comments() -> None:
    """So that both ends notice when the other has gone."""

    async def main() -> None:
        limits = Limits(sse_keep_alive_s=0.02)
        async with gateway(FakeMesh(), limits) as running, following(running) as followed:
            for _ in range(3):
                assert await followed.block() == b": keep-alive"

    trio.run(main)


def test_followers_have_a_limit_and_leave_their_places() -> None:
    """The next one gets 503 with advice; chats go on; whoever leaves makes room."""

    async def main() -> None:
        mesh = FakeMesh()
        limits = dataclasses.replace(LIMITS, event_streams_max=2)
        async with gateway(mesh, limits) as running, following(running) as stays:
            async with following(running):
                full = await running.ask("GET", PATH)
                assert (full.status, full.error["code"]) == (503, "overloaded")
                assert int(full.headers["retry-after"]) >= 1
                assert (await running.chat()).status == 200
            await _room(running)
            async with following(running) as third:
                _happen(mesh)
                assert await stays.event() == await third.event()

    trio.run(main)


def test_a_slow_client_holds_nobody_up_and_is_cut_off() -> None:
    """The others hear everything at once; its own place is free again after a while."""

    async def main() -> None:
        mesh = FakeMesh()
        limits = dataclasses.replace(LIMITS, event_streams_max=2, write_stall_s=0.3)
        async with (
            gateway(mesh, limits) as running,
            following(running) as quick,
            await running.connect(receive_buffer=1) as slow,
        ):
            await slow.send_all(request_bytes("GET", PATH))
            await read_until(slow, b": meshd events")
            assert (await running.ask("HEAD", PATH)).status == 503, "its place is taken"
            for _ in range(40):
                _happen(mesh, EVENTS_KEPT)
                for number in range(EVENTS_KEPT):
                    assert (await quick.event())["present"] == number
            await _room(running)

    trio.run(main)


def test_head_is_answered_and_over() -> None:
    """The headers of the stream without the stream; the connection lives on."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running, await running.connect() as stream:
            await stream.send_all(request_bytes("HEAD", PATH))
            reply = await read_reply(stream, "HEAD")
            assert (reply.status, reply.body) == (200, b"")
            assert reply.headers["content-type"].startswith("text/event-stream")
            await stream.send_all(request_bytes("GET", "/healthz"))
            assert (await read_reply(stream)).status == 200

    trio.run(main)


def test_stopping_ends_the_streams_at_once_and_whole() -> None:
    """No request is waited for that would not end by itself, and no client is told of an error."""

    async def main() -> None:
        limits = dataclasses.replace(LIMITS, shutdown_s=60.0)
        async with gateway(FakeMesh(), limits) as running, following(running) as followed:
            running.shutdown.set()
            assert await followed.block() == b""
            await running.ended.wait()

    trio.run(main)


def test_events_are_no_way_around_the_guard() -> None:
    """A foreign page may not listen either; and there is nothing to POST."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            reply = await running.ask("GET", PATH, origin="https://evil.example")
            assert (reply.status, reply.error["code"]) == (403, "forbidden_origin")
            reply = await running.ask("POST", PATH, b"{}")
            assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")

    trio.run(main)
