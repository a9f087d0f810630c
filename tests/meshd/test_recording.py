"""The recording's file: for its owner only, bounded, and never the daemon's trouble."""

import os
import pathlib
import stat

import pytest

from meshd import recording as recordings
from meshd.failures import UserError
from meshd.recording import Recording
from protocol.events import AddressFound, Delayed, Event, LeaveRequested
from protocol.identity import Address
from protocol.node import Node
from protocol.recording import Beginning, Happened, Line, Outcome, decode_line
from tests.helpers.recordings import recorded_node

EVENT = Delayed(7)


def lines_of(path: pathlib.Path) -> list[Line]:
    """What is in a recording."""
    return [decode_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def test_a_run_is_written_down(tmp_path: pathlib.Path) -> None:
    """The beginning, then each event and its outcome; the same for another start."""
    recording = Recording(tmp_path / "record")
    for now in (3, 4):
        node = recorded_node(recording)
        recording.handle(node, EVENT, now)
    recording.close()
    lines = lines_of(tmp_path / "record")
    assert [type(line) for line in lines] == [Beginning, Happened, Outcome] * 2
    assert lines[1::3] == [Happened(EVENT, 3), Happened(EVENT, 4)]


@pytest.mark.skipif(os.name != "posix", reason="the system has no such modes")
def test_only_its_owner_may_read_it(tmp_path: pathlib.Path) -> None:
    """Also a file that was there, and that everybody could read; a device stays as it is."""
    path = tmp_path / "record"
    for before in (None, 0o666):
        if before is not None:
            path.chmod(before)
        Recording(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    null = os.stat(os.devnull).st_mode
    Recording(pathlib.Path(os.devnull)).close()
    assert os.stat(os.devnull).st_mode == null


def test_an_event_is_there_before_it_is_handled(tmp_path: pathlib.Path) -> None:
    """So that one that never ends is in the file."""
    recording = Recording(tmp_path / "record")
    node = recorded_node(recording)
    seen: list[Line] = []

    class Looking(Node):
        def handle(self, event: Event, now: int) -> list:  # type: ignore[type-arg]  # as Node's
            seen.extend(lines_of(tmp_path / "record"))
            return []

    node.__class__ = Looking
    recording.handle(node, LeaveRequested(), 3)
    recording.close()
    assert seen[-1] == Happened(LeaveRequested(), 3)


def test_a_recording_ends_and_the_node_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its limit, or when a line would be too long: behind a whole line."""
    monkeypatch.setattr(recordings, "BYTES_MAX", 5_000)
    recording = Recording(tmp_path / "record")
    node = recorded_node(recording)
    for now in range(100):
        recording.handle(node, EVENT, now)
    size = (tmp_path / "record").stat().st_size
    assert 5_000 < size < 5_200
    assert len(lines_of(tmp_path / "record")) > 10

    recording = Recording(tmp_path / "long")
    node = recorded_node(recording)
    monkeypatch.setattr(recordings, "LINE_BYTES_MAX", 100)
    recording.handle(node, EVENT, 1)
    recording.handle(node, AddressFound(node.node_id, Address("h" * 100, 1)), 2)
    recording.handle(node, EVENT, 3)
    assert len(lines_of(tmp_path / "long")) == 3


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    """Before anything starts."""
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(UserError, match="cannot record to"):
            Recording(path)
