"""The form of a recording: every event comes back, nothing else is taken for a line."""

import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.assembly import NodeConfig
from protocol.config import ProtocolConfig
from protocol.crypto import SodiumCrypto
from protocol.effects import SendDatagram
from protocol.errors import BadRecording
from protocol.events import Event, StreamFailure
from protocol.identity import Address, NodeId
from protocol.messages import Load
from protocol.recorder import Recorder
from protocol.recording import (
    LINE_BYTES_MAX,
    MARKS_MAX,
    Beginning,
    Happened,
    Outcome,
    Questions,
    decode_line,
    encode_line,
)
from protocol.snapshot import Snapshot

INTS = st.integers(-(2**63), 2**64 - 1)
COUNTS = st.integers(0, 2**63)
BLOBS = st.binary(max_size=40)
NODES = st.binary(min_size=32, max_size=32).map(NodeId)
ADDRESSES = st.builds(Address, st.text(max_size=20), st.integers(0, 65_535))
FIELDS: dict[object, st.SearchStrategy[object]] = {
    bytes: BLOBS,
    int: INTS,
    str: st.text(max_size=20),
    NodeId: NODES,
    Address: ADDRESSES,
    tuple[Address, ...]: st.lists(ADDRESSES, max_size=3).map(tuple),
    StreamFailure: st.sampled_from(StreamFailure),
    Load: st.builds(Load, INTS, INTS, INTS),
}
KINDS = typing.get_args(Event)
EVENTS = st.one_of(
    *(
        st.builds(kind, **{n: FIELDS[hint] for n, hint in typing.get_type_hints(kind).items()})
        for kind in KINDS
    )
)
ANSWERS = st.tuples(st.text(max_size=8), st.none() | st.booleans() | BLOBS)
WIRES = st.lists(BLOBS, max_size=3).map(tuple)
BEGINNING = Beginning(
    "0.1.0",
    "3.11.2",
    NodeId(b"n" * 32),
    2**64 - 1,
    NodeConfig(name="n", software="s", root=b"r" * 32, boot=2**63, boot_secret=bytes(32)),
)


@given(EVENTS, COUNTS)
def test_every_event_comes_back(event: Event, now: int) -> None:
    """Whatever is in it, from one line."""
    line = encode_line(Happened(event, now))
    assert line.count("\n") == 1
    assert line.isascii()
    assert decode_line(line.encode()) == Happened(event, now)


@given(
    st.builds(
        Snapshot,
        records=WIRES,
        lives=WIRES,
        goodbyes=WIRES,
        deaths=st.lists(st.tuples(NODES, COUNTS), max_size=3).map(tuple),
    )
)
def test_a_beginning_comes_back_without_its_secret(snapshot: Snapshot) -> None:
    """Everything else that the node was made of, its protocol's knobs among it."""
    secret = bytes(range(32))
    config = NodeConfig(
        name="n",
        software="s",
        root=b"r" * 32,
        boot=7,
        boot_secret=secret,
        versions=(1, 2),
        snapshot=snapshot,
        protocol=ProtocolConfig(suspicion_mult=9),
    )
    line = encode_line(Beginning("0.1.0", "3.11.2", NodeId(b"n" * 32), 5, config))
    assert secret.hex() not in line
    read = decode_line(line.encode())
    assert isinstance(read, Beginning)
    assert read.config.boot_secret == bytes(32)
    assert (read.config.snapshot, read.config.protocol) == (snapshot, config.protocol)
    assert encode_line(read) == line


@given(
    st.builds(
        Outcome,
        check=st.text(max_size=16),
        effects=st.lists(st.text(max_size=9), max_size=3).map(tuple),
        answers=st.lists(ANSWERS, max_size=3).map(tuple),
    )
    | st.builds(Outcome, check=st.text(max_size=16), raised=st.text(max_size=9))
)
def test_an_outcome_comes_back(outcome: Outcome) -> None:
    """With its answers, or with what was raised."""
    assert decode_line(encode_line(outcome).encode()) == outcome


@settings(max_examples=50)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_other_bytes_are_refused(line: bytes) -> None:
    """By the one exception that stands for it."""
    with pytest.raises(BadRecording):
        decode_line(line)


def changes(value: object) -> "list[object]":
    """Every value with one thing in it missing or of another type."""
    changed: list[object] = [None, -1, 2**70, "zz", [], {}, 1.5]
    if isinstance(value, dict):
        for key, inner in value.items():
            changed.append({k: v for k, v in value.items() if k != key})
            changed += [{**value, key: other} for other in changes(inner)]
    return changed


def test_a_damaged_beginning_is_refused() -> None:
    """Each field is checked: nothing that is wrong gets as far as a node's parts."""
    whole = json.loads(encode_line(BEGINNING))
    refused = 0
    for changed in changes(whole):
        try:
            read = decode_line(json.dumps(changed).encode())
        except BadRecording:
            refused += 1
        else:  # a text, a list or a number that might have been recorded
            assert isinstance(read, Beginning)
    assert refused > 200


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (encode_line(BEGINNING).replace('_recording":1', '_recording":2'), "format 2.*0.1.0"),
        (encode_line(BEGINNING).replace("suspicion_mult", "suspicion"), "which this meshd lacks"),
        ('{"now":1,"event":"Flown"}', "no event 'Flown'"),
        ('{"now":-1,"event":"LeaveRequested"}', "below 0"),
        ('{"now":1,"event":"LeaveRequested"}' + " " * LINE_BYTES_MAX, "too long"),
        ("[" * MARKS_MAX + "[", "too long"),
        ("[" * (MARKS_MAX - 1), "no line"),
        ('{"now":NaN}', "no line"),
        ('{"now":1,"event":"StreamFailed","peer":"00","reason":"refused"}', "key of 32 bytes"),
        ('{"now":1,"event":"SendFailed","to":["10.0.0.1"]}', "to is not a host and a port"),
        (
            f'{{"now":1,"event":"StreamFailed","peer":"{"00" * 32}","reason":"bored"}}',
            "no such reason",
        ),
        ('{"effects":[],"check":"","answers":[["sign"]]}', "not a question and a value"),
        (
            encode_line(BEGINNING).replace('"deaths":[', '"deaths":[["00"],').replace("],]", "]]"),
            "a death is not a node and a number",
        ),
        (
            encode_line(BEGINNING).replace('"suspicion_mult":3', '"suspicion_mult":0'),
            "its configuration cannot be",
        ),
    ],
)
def test_what_is_wrong_is_said(line: str, said: str) -> None:
    """In words for whoever has the file."""
    with pytest.raises(BadRecording, match=said):
        decode_line(line.encode())


def test_a_check_depends_on_everything() -> None:
    """On effects, deadline and questions, and on where one ends and the next begins."""
    effect = SendDatagram(b"d", Address("h", 1))

    def check(deadline: int, *questions: bytes) -> str:
        asked = Questions()
        asked.note("seal", *questions)
        return asked.check([effect], deadline)

    checks = [check(1), check(2), check(1, b"a"), check(1, b"ab", b"c"), check(1, b"a", b"bc")]
    checks += [Questions().check([], 1), Questions().check([effect, effect], 1)]
    assert len(set(checks)) == len(checks)
    assert check(1, b"a") == check(1, b"a")


def test_what_is_asked_between_events_is_not_written() -> None:
    """The keys answer, and no event tells of it."""
    lines: list[str] = []
    crypto = SodiumCrypto(bytes(32))
    keys = Recorder(lines.append).begin(BEGINNING.config, crypto, 1, meshd="0.1.0", python="3.11")
    assert keys.sign(b"text") == crypto.sign(b"text")
    assert len(lines) == 1
