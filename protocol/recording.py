"""The one place for the form of a recording: what happened to a node, as lines of JSON.

    beginning  {"meshd_recording": 1, "meshd", "python", "node", "random_seed", "config": {...}}
    event      {"now": nanoseconds, "event": type, ...its fields}
    outcome    {"effects": [type, ...], "check", "answers": [[question, answer], ...]}
               or {"raised": type, "check", "answers"}, when the node broke

An event's line is written before the node gets it, its outcome behind it. A further beginning is a
further start of the same daemon. Bytes are in hex, an address is [host, port].

`answers` are what the node's keys answered during the event, as far as nobody else can answer it:
signatures, sealed boxes, opened texts, codes. Neither the node's private key, nor a key shared with
a peer, nor the boot secret is in a recording. `check` is a hash over the effects, the node's next
deadline, and all that its keys were asked.
"""

import dataclasses
import enum
import hashlib
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from protocol.assembly import NodeConfig
from protocol.config import ProtocolConfig
from protocol.effects import Effect
from protocol.errors import BadRecording
from protocol.events import (
    AddressesChanged,
    AddressFound,
    ContactLost,
    DatagramReceived,
    DeadlineReached,
    Delayed,
    Event,
    LeaveRequested,
    LoadChanged,
    OfferChanged,
    RecordIssued,
    Resumed,
    SeedFound,
    SendFailed,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import NodeId
from protocol.recorded_values import (
    a_bool,
    a_count,
    a_failure,
    a_list,
    a_load,
    a_node_id,
    a_text,
    addresses,
    an_address,
    an_int,
    an_object,
    blobs,
    ints,
    some_bytes,
    taken,
)
from protocol.snapshot import Snapshot

FORMAT: Final = 1
LINE_BYTES_MAX: Final = 32 * 2**20
"""A stream message of the greatest length in hex takes half of it, the memory of 16,384 members a
good part."""
MARKS_MAX: Final = 600_000
"""Quotes, commas and brackets in one line: beside its length they decide what memory it takes."""
CHECK_BYTES: Final = 8
_MARKS: Final = (b'"', b",", b"[", b"{")
_FORMAT_KEY: Final = "meshd_recording"


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """From what a Node was made, without its secrets."""

    meshd: str
    """Version of the program that recorded."""
    python: str
    node: NodeId
    random_seed: int
    """Of the node's random.Random."""
    config: NodeConfig
    """Its `boot_secret` is zeros when it was read from a recording."""


@dataclasses.dataclass(frozen=True, slots=True)
class Happened:
    """One event, as the node gets it."""

    event: Event
    now: int


Answer = tuple[str, bytes | bool | None]
"""(what the node's keys were asked, what they answered)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one event."""

    check: str
    effects: tuple[str, ...] = ()
    """Types, in order."""
    answers: tuple[Answer, ...] = ()
    raised: str | None = None
    """The type of the exception that came instead of effects."""


Line = Beginning | Happened | Outcome


class Questions:
    """A hash over what a node's keys were asked, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=CHECK_BYTES)

    def note(self, question: str, *parts: bytes) -> None:
        """One question and what it was about; never a secret."""
        self._hash.update(b"%b %d " % (question.encode(), len(parts)))
        for part in parts:
            self._hash.update(b"%d " % len(part))
            self._hash.update(part)

    def check(self, effects: Sequence[Effect], deadline: int) -> str:
        """The hash over it all, with what the node asks of the world and when it wakes."""
        text = _text([[type(e).__name__, plain(e)] for e in effects])
        self._hash.update(b"%d %b" % (deadline, text.encode()))
        return self._hash.hexdigest()


# ---- writing ----


def plain(value: object) -> Any:  # noqa: ANN401  # JSON's own domain
    """A value of an event or effect as JSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def encode_line(line: Line) -> str:
    """One line, with its end."""
    match line:
        case Beginning():
            content: dict[str, object] = {
                _FORMAT_KEY: FORMAT,
                "meshd": line.meshd,
                "python": line.python,
                "node": plain(line.node),
                "random_seed": line.random_seed,
                "config": plain(line.config),
            }
            del content["config"]["boot_secret"]  # type: ignore[attr-defined]  # it is a dict
        case Happened():
            content = {"now": line.now, "event": type(line.event).__name__, **plain(line.event)}
        case _:
            content = {"effects": line.effects} if line.raised is None else {"raised": line.raised}
            content |= {"check": line.check, "answers": plain(line.answers)}
    return _text(content) + "\n"


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


# ---- reading ----


def decode_line(line: bytes) -> Line:
    """The inverse of `encode_line`. Raises BadRecording, with what is wrong."""
    fields = an_object(_parsed(line), "a line")
    if _FORMAT_KEY in fields:
        return _beginning(fields)
    if "event" in fields:
        return _happened(fields)
    return _outcome(fields)


def _parsed(line: bytes) -> object:
    if len(line) > LINE_BYTES_MAX or sum(map(line.count, _MARKS)) > MARKS_MAX:
        raise BadRecording("this is too long for a recording")
    try:
        return json.loads(line, parse_float=_refused, parse_constant=_refused)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise BadRecording("this is no line of a recording") from error


def _refused(text: str) -> typing.NoReturn:
    raise ValueError(f"{text[:20]} is no whole number")


def _beginning(fields: Mapping[str, object]) -> Beginning:
    found = an_int(fields[_FORMAT_KEY])
    if found != FORMAT:
        by = fields.get("meshd")
        raise BadRecording(
            f"this recording has format {found}, and this meshd reads {FORMAT}; replay it with the "
            f"one that wrote it{f', {by[:40]}' if isinstance(by, str) else ''}"
        )
    seed = taken(fields, "random_seed", an_int)
    if seed < 0:
        raise BadRecording("random_seed is below 0")
    return Beginning(
        meshd=taken(fields, "meshd", a_text)[:40],
        python=taken(fields, "python", a_text)[:40],
        node=taken(fields, "node", a_node_id),
        random_seed=seed,
        config=_config(taken(fields, "config", an_object)),
    )


def _config(fields: Mapping[str, object]) -> NodeConfig:
    versions = taken(fields, "versions", ints)
    if len(versions) != 2 or not 0 < versions[0] <= versions[1] < 256:
        raise BadRecording("versions are not two numbers")
    root = taken(fields, "root", a_node_id)
    try:
        return NodeConfig(
            name=taken(fields, "name", a_text),
            software=taken(fields, "software", a_text),
            root=root,
            boot=taken(fields, "boot", a_count),
            boot_secret=bytes(32),
            incarnation=taken(fields, "incarnation", a_count),
            offers_version=taken(fields, "offers_version", a_count),
            versions=(versions[0], versions[1]),
            snapshot=_snapshot(taken(fields, "snapshot", an_object)),
            protocol=_protocol(taken(fields, "protocol", an_object)),
        )
    except ValueError as error:
        raise BadRecording(f"its configuration cannot be: {error}") from error


_SWITCHES: Final = ("nacks", "stream_probes", "buddy", "digests")
"""The fields of ProtocolConfig that are no numbers."""


def _protocol(fields: Mapping[str, object]) -> ProtocolConfig:
    names = [field.name for field in dataclasses.fields(ProtocolConfig)]
    for name in fields:
        if name not in names:
            raise BadRecording(f"its configuration has {name[:40]!r}, which this meshd lacks")
    values: dict[str, Any] = {
        name: taken(fields, name, a_bool if name in _SWITCHES else a_count) for name in names
    }
    return ProtocolConfig(**values)


def _snapshot(fields: Mapping[str, object]) -> Snapshot:
    deaths: list[tuple[NodeId, int]] = []
    for item in taken(fields, "deaths", a_list):
        pair = a_list(item)
        if len(pair) != 2:
            raise BadRecording("a death is not a node and a number")
        deaths.append((a_node_id(pair[0]), a_count(pair[1])))
    return Snapshot(
        records=taken(fields, "records", blobs),
        lives=taken(fields, "lives", blobs),
        goodbyes=taken(fields, "goodbyes", blobs),
        deaths=tuple(deaths),
    )


def _happened(fields: Mapping[str, object]) -> Happened:
    name = taken(fields, "event", a_text)
    kind = _EVENTS.get(name)
    if kind is None:
        raise BadRecording(f"this meshd knows no event {name[:40]!r}")
    make, readers = kind
    event = make(**{key: taken(fields, key, read) for key, read in readers.items()})
    return Happened(event, taken(fields, "now", a_count))


def _outcome(fields: Mapping[str, object]) -> Outcome:
    raised = taken(fields, "raised", a_text) if "raised" in fields else None
    return Outcome(
        check=taken(fields, "check", a_text),
        effects=tuple(map(a_text, taken(fields, "effects", a_list))) if raised is None else (),
        answers=tuple(map(_answer, taken(fields, "answers", a_list))),
        raised=raised,
    )


def _answer(value: object) -> Answer:
    pair = a_list(value)
    if len(pair) != 2:
        raise BadRecording("an answer is not a question and a value")
    question, answer = pair
    if answer is None or isinstance(answer, bool):
        return a_text(question), answer
    return a_text(question), some_bytes(answer)


_KINDS: Final[Sequence[tuple[Callable[..., Event], dict[str, Callable[[object, str], Any]]]]] = (
    (Started, {"addresses": addresses}),
    (DatagramReceived, {"data": some_bytes, "source": an_address}),
    (StreamReceived, {"stream": an_int, "peer": a_node_id, "data": some_bytes, "wall_s": an_int}),
    (StreamFailed, {"peer": a_node_id, "reason": a_failure}),
    (SendFailed, {"to": an_address}),
    (ContactLost, {"node": a_node_id}),
    (Delayed, {"lag_ns": an_int}),
    (DeadlineReached, {}),
    (OfferChanged, {"key": a_text, "value": some_bytes}),
    (LoadChanged, {"load": a_load}),
    (AddressesChanged, {"addresses": addresses}),
    (AddressFound, {"node": a_node_id, "address": an_address}),
    (SeedFound, {"node": a_node_id, "address": an_address}),
    (RecordIssued, {"wire": some_bytes}),
    (Resumed, {"gap_ns": an_int}),
    (LeaveRequested, {}),
)
"""Every event, and who reads each of its fields."""
_EVENTS: Final = {kind.__name__: (kind, readers) for kind, readers in _KINDS}
