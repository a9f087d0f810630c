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
from protocol.identity import NODE_ID_BYTES, Address, NodeId
from protocol.messages import Load
from protocol.snapshot import Snapshot

FORMAT: Final = 1
LINE_BYTES_MAX: Final = 32 * 2**20
"""A stream message of the greatest length in hex takes half of it, the memory of 16,384 members a
good part."""
MARKS_MAX: Final = 600_000
"""Quotes, commas and brackets in one line: beside its length they decide what memory it takes."""
CHECK_BYTES: Final = 8
_MARKS: Final = (b'"', b",", b"[", b"{")
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
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
    fields = _fields(_parsed(line), "a line")
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
    found = _int(fields[_FORMAT_KEY])
    if found != FORMAT:
        by = fields.get("meshd")
        raise BadRecording(
            f"this recording has format {found}, and this meshd reads {FORMAT}; replay it with the "
            f"one that wrote it{f', {by[:40]}' if isinstance(by, str) else ''}"
        )
    seed = _taken(fields, "random_seed", _int)
    if seed < 0:
        raise BadRecording("random_seed is below 0")
    return Beginning(
        meshd=_taken(fields, "meshd", _str)[:40],
        python=_taken(fields, "python", _str)[:40],
        node=_taken(fields, "node", _node_id),
        random_seed=seed,
        config=_config(_taken(fields, "config", _fields)),
    )


def _config(fields: Mapping[str, object]) -> NodeConfig:
    versions = _taken(fields, "versions", _ints)
    if len(versions) != 2 or not 0 < versions[0] <= versions[1] < 256:
        raise BadRecording("versions are not two numbers")
    root = _taken(fields, "root", _node_id)
    try:
        return NodeConfig(
            name=_taken(fields, "name", _str),
            software=_taken(fields, "software", _str),
            root=root,
            boot=_taken(fields, "boot", _count),
            boot_secret=bytes(32),
            incarnation=_taken(fields, "incarnation", _count),
            offers_version=_taken(fields, "offers_version", _count),
            versions=(versions[0], versions[1]),
            snapshot=_snapshot(_taken(fields, "snapshot", _fields)),
            protocol=_protocol(_taken(fields, "protocol", _fields)),
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
        name: _taken(fields, name, _bool if name in _SWITCHES else _count) for name in names
    }
    return ProtocolConfig(**values)


def _snapshot(fields: Mapping[str, object]) -> Snapshot:
    deaths: list[tuple[NodeId, int]] = []
    for item in _taken(fields, "deaths", _list):
        pair = _list(item)
        if len(pair) != 2:
            raise BadRecording("a death is not a node and a number")
        deaths.append((_node_id(pair[0]), _count(pair[1])))
    return Snapshot(
        records=_taken(fields, "records", _blobs),
        lives=_taken(fields, "lives", _blobs),
        goodbyes=_taken(fields, "goodbyes", _blobs),
        deaths=tuple(deaths),
    )


def _happened(fields: Mapping[str, object]) -> Happened:
    name = _taken(fields, "event", _str)
    kind = _EVENTS.get(name)
    if kind is None:
        raise BadRecording(f"this meshd knows no event {name[:40]!r}")
    make, readers = kind
    event = make(**{key: _taken(fields, key, read) for key, read in readers.items()})
    return Happened(event, _taken(fields, "now", _count))


def _outcome(fields: Mapping[str, object]) -> Outcome:
    raised = _taken(fields, "raised", _str) if "raised" in fields else None
    return Outcome(
        check=_taken(fields, "check", _str),
        effects=tuple(map(_str, _taken(fields, "effects", _list))) if raised is None else (),
        answers=tuple(map(_answer, _taken(fields, "answers", _list))),
        raised=raised,
    )


def _answer(value: object) -> Answer:
    pair = _list(value)
    if len(pair) != 2:
        raise BadRecording("an answer is not a question and a value")
    question, answer = pair
    if answer is None or isinstance(answer, bool):
        return _str(question), answer
    return _str(question), _bytes(answer)


# ---- values ----

_Value = typing.TypeVar("_Value")


def _taken(
    fields: Mapping[str, object], key: str, read: "Callable[[object, str], _Value]"
) -> _Value:
    if key not in fields:
        raise BadRecording(f"{key} is missing")
    return read(fields[key], key)


def _fields(value: object, what: str = "a value") -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadRecording(f"{what} is not an object")
    return value


def _list(value: object, what: str = "a value") -> Sequence[object]:
    if not isinstance(value, list):
        raise BadRecording(f"{what} is not a list")
    return value


def _int(value: object, what: str = "a value") -> int:
    if type(value) is not int or not _INT_MIN <= value <= _INT_MAX:
        raise BadRecording(f"{what} is not a whole number of 64 bits")
    return value


def _count(value: object, what: str = "a value") -> int:
    number = _int(value, what)
    if number < 0:
        raise BadRecording(f"{what} is below 0")
    return number


def _bool(value: object, what: str = "a value") -> bool:
    if not isinstance(value, bool):
        raise BadRecording(f"{what} is not true or false")
    return value


def _str(value: object, what: str = "a value") -> str:
    if not isinstance(value, str):
        raise BadRecording(f"{what} is not a text")
    return value


def _bytes(value: object, what: str = "a value") -> bytes:
    try:
        return bytes.fromhex(_str(value, what))
    except ValueError as error:
        raise BadRecording(f"{what} is not in hex") from error


def _node_id(value: object, what: str = "a value") -> NodeId:
    data = _bytes(value, what)
    if len(data) != NODE_ID_BYTES:
        raise BadRecording(f"{what} is not a key of {NODE_ID_BYTES} bytes")
    return NodeId(data)


def _ints(value: object, what: str = "a value") -> tuple[int, ...]:
    return tuple(_int(item, what) for item in _list(value, what))


def _blobs(value: object, what: str = "a value") -> tuple[bytes, ...]:
    return tuple(_bytes(item, what) for item in _list(value, what))


def _address(value: object, what: str = "a value") -> Address:
    pair = _list(value, what)
    if len(pair) != 2:
        raise BadRecording(f"{what} is not a host and a port")
    return Address(_str(pair[0], what), _int(pair[1], what))


def _addresses(value: object, what: str = "a value") -> tuple[Address, ...]:
    return tuple(_address(item, what) for item in _list(value, what))


def _failure(value: object, what: str = "a value") -> StreamFailure:
    try:
        return StreamFailure(_str(value, what))
    except ValueError as error:
        raise BadRecording(f"this meshd knows no such {what}") from error


def _load(value: object, what: str = "a value") -> Load:
    fields = _fields(value, what)
    return Load(*(_taken(fields, field.name, _int) for field in dataclasses.fields(Load)))


_KINDS: Final[Sequence[tuple[Callable[..., Event], dict[str, Callable[[object, str], Any]]]]] = (
    (Started, {"addresses": _addresses}),
    (DatagramReceived, {"data": _bytes, "source": _address}),
    (StreamReceived, {"stream": _int, "peer": _node_id, "data": _bytes, "wall_s": _int}),
    (StreamFailed, {"peer": _node_id, "reason": _failure}),
    (SendFailed, {"to": _address}),
    (Delayed, {"lag_ns": _int}),
    (DeadlineReached, {}),
    (OfferChanged, {"key": _str, "value": _bytes}),
    (LoadChanged, {"load": _load}),
    (AddressesChanged, {"addresses": _addresses}),
    (AddressFound, {"node": _node_id, "address": _address}),
    (RecordIssued, {"wire": _bytes}),
    (Resumed, {"gap_ns": _int}),
    (LeaveRequested, {}),
)
"""Every event, and who reads each of its fields."""
_EVENTS: Final = {kind.__name__: (kind, readers) for kind, readers in _KINDS}
