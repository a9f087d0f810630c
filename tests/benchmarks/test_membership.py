"""The membership benchmark understands what daemons tell; it runs none here."""

import json
import os

import pytest

from meshd.event_log import event_of
from meshd.gateway.encoding import sse_event
from meshd.logs import _one_line
from protocol.effects import MembershipChanged
from protocol.identity import NodeId
from protocol.members import State
from tests.benchmarks.membership import meshd_fleet, serf_fleet
from tests.benchmarks.membership.listener import Listener
from tests.benchmarks.membership.sightings import ALIVE, DEAD, LEFT, SUSPECT, Sightings


@pytest.mark.parametrize("name", ["n1", "anna-2", "anna.local"])
@pytest.mark.parametrize("state", list(State))
def test_a_logged_change_is_understood(name: str, state: State) -> None:
    """As `meshd/logs.py` writes what `meshd/running.py` says."""
    line = _one_line(
        None,
        "info",
        {
            "timestamp": "2026-01-01T00:00:00Z",
            "level": "info",
            "event": "member.changed",
            "name": name,
            "node": "abcd1234",
            "state": str(state),
            "previous": "unknown",
        },
    )
    assert meshd_fleet.from_log(line.encode()) == (name, str(state))


def test_an_event_is_understood() -> None:
    """As `/mesh/v1/events` sends it."""
    change = MembershipChanged(NodeId(bytes(32)), "n1", State.DEAD, 3, State.SUSPECT)
    event = event_of(change, NodeId(bytes(32)), lambda _: "n1")
    assert event is not None
    lines = sse_event(event).splitlines()
    assert [told for line in lines if (told := meshd_fleet.from_event(line))] == [("n1", DEAD)]
    other = b"data: " + json.dumps({**event, "type": "offer"}).encode()
    assert meshd_fleet.from_event(other) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"2026/01/01 00:00:00 [INFO] serf: EventMemberJoin: n1 127.0.0.1", ("n1", ALIVE)),
        (b"2026/01/01 00:00:00 [INFO] serf: EventMemberFailed: n1 127.0.0.1", ("n1", DEAD)),
        (b"2026/01/01 00:00:00 [INFO] serf: EventMemberLeave: n1 127.0.0.1", ("n1", LEFT)),
        (
            b"2026/01/01 00:00:00 [INFO] memberlist: Suspect n1 has failed, no acks received",
            ("n1", SUSPECT),
        ),
        (b"2026/01/01 00:00:00 [INFO] agent: Received event: member-join", None),
    ],
)
def test_serf_is_understood(line: bytes, told: tuple[str, str] | None) -> None:
    """As version 0.9.4 logs."""
    assert serf_fleet.from_log(line) == told


def test_lines_come_whole_and_stamped() -> None:
    """However they were cut on the way; the end of a source ends its watch."""
    reading, writing = os.pipe()
    listener = Listener()
    lines: list[tuple[float, bytes]] = []
    with os.fdopen(reading, "rb") as source:
        listener.watch(source, lambda at_s, line: lines.append((at_s, line)))
        for piece in (b"on", b"e\r\ntw", b"o\nunfinished"):
            os.write(writing, piece)
            listener.pump(1.0)
        os.close(writing)
        listener.pump(1.0)
        assert source.closed
    assert [line for _, line in lines] == [b"one", b"two"]
    assert lines[0][0] <= lines[1][0]
    assert not listener.until(lambda: False, 0.01)


def test_views() -> None:
    """A suspicion changes none, a member's word of itself is none, a new process has none yet."""
    seen = Sightings()
    for subject in ("a", "b", "c"):
        seen.note(1.0, "a", subject, ALIVE)
        seen.note(2.0, "b", subject, ALIVE)
    assert seen.do_all_say(["a", "b"], ["a", "b", "c"], ALIVE)
    mark = seen.mark()
    seen.note(3.0, "a", "c", SUSPECT)
    assert seen.do_all_say(["a"], ["c"], ALIVE)
    assert seen.last_change_s(mark) is None
    seen.note(4.0, "a", "c", DEAD)
    seen.note(5.0, "a", "c", DEAD)
    seen.note(6.0, "b", "c", DEAD)
    assert seen.firsts(mark, "c", DEAD) == {"a": 4.0, "b": 6.0}
    assert len(seen.since(mark, states=(DEAD,))) == 3
    assert seen.last_change_s(mark) == 6.0
    seen.forget("a")
    assert not seen.do_all_say(["a"], ["c"], DEAD)
