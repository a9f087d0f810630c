"""The recording: one line of JSON an event, whatever the event holds."""

import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd.failures import UserError
from meshd.recording import Recording
from protocol.events import (
    AddressesChanged,
    AddressFound,
    DatagramReceived,
    DeadlineReached,
    Delayed,
    Event,
    LeaveRequested,
    LoadChanged,
    OfferChanged,
    RecordIssued,
    Resumed,
    SendFailed,
    Started,
    StreamFailed,
    StreamFailure,
    StreamReceived,
)
from protocol.identity import Address, NodeId
from protocol.messages import Load

NODE = NodeId(b"n" * 32)
ADDRESS = Address("fd00::1", 7700)
EVENTS: dict[str, tuple[Event, dict[str, object]]] = {
    "Started": (Started((ADDRESS, Address("h", 1))), {"addresses": ["[fd00::1]:7700", "h:1"]}),
    "DatagramReceived": (
        DatagramReceived(b"\x00\xff", ADDRESS),
        {"data": "00ff", "source": "[fd00::1]:7700"},
    ),
    "StreamReceived": (
        StreamReceived(3, NODE, b"x", 9),
        {"stream": 3, "peer": "6e" * 32, "data": "78", "wall_s": 9},
    ),
    "StreamFailed": (
        StreamFailed(NODE, StreamFailure.REFUSED),
        {"peer": "6e" * 32, "reason": "refused"},
    ),
    "SendFailed": (SendFailed(ADDRESS), {"to": "[fd00::1]:7700"}),
    "Delayed": (Delayed(7), {"lag_ns": 7}),
    "DeadlineReached": (DeadlineReached(), {}),
    "OfferChanged": (OfferChanged("k", b""), {"key": "k", "value": ""}),
    "LoadChanged": (
        LoadChanged(Load(1, 2, 3)),
        {"load": {"queued": 1, "running": 2, "slots": 3}},
    ),
    "AddressesChanged": (AddressesChanged((ADDRESS,)), {"addresses": ["[fd00::1]:7700"]}),
    "AddressFound": (
        AddressFound(NODE, ADDRESS),
        {"node": "6e" * 32, "address": "[fd00::1]:7700"},
    ),
    "RecordIssued": (RecordIssued(b"w"), {"wire": "77"}),
    "Resumed": (Resumed(5), {"gap_ns": 5}),
    "LeaveRequested": (LeaveRequested(), {}),
}


def test_every_event_can_be_recorded(tmp_path: pathlib.Path) -> None:
    """None is missing here, and each becomes exactly its fields."""
    assert {type(event) for event, _ in EVENTS.values()} == set(Event.__args__)
    recording = Recording(tmp_path / "record")
    for now, (event, _) in enumerate(EVENTS.values()):
        recording.note(event, now)
    recording.close()
    lines = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]
    assert lines == [
        {"now": now, "event": name, **fields}
        for now, (name, (_, fields)) in enumerate(EVENTS.items())
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.integers(0, 2**62))
def test_a_line_stays_a_line(tmp_path: pathlib.Path, key: str, now: int) -> None:
    """Line breaks and odd characters inside an event do not break the file's form."""
    recording = Recording(tmp_path / "record")
    recording.note(OfferChanged(key, b""), now)
    recording.close()
    [line] = (tmp_path / "record").read_bytes().splitlines()
    assert json.loads(line) == {"now": now, "event": "OfferChanged", "key": key, "value": ""}


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    """Before anything starts."""
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(UserError, match="cannot record to"):
            Recording(path)
