"""The one place for reading single values out of a recording; whatever is not one is refused.

Each raises BadRecording, which names the field.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from protocol.errors import BadRecording
from protocol.events import StreamFailure
from protocol.identity import NODE_ID_BYTES, Address, NodeId
from protocol.messages import Load

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_Value = typing.TypeVar("_Value")


def taken(
    fields: Mapping[str, object], key: str, read: "Callable[[object, str], _Value]"
) -> _Value:
    """A field of an object."""
    if key not in fields:
        raise BadRecording(f"{key} is missing")
    return read(fields[key], key)


def an_object(value: object, what: str = "a value") -> Mapping[str, object]:
    """An object of JSON."""
    if not isinstance(value, dict):
        raise BadRecording(f"{what} is not an object")
    return value


def a_list(value: object, what: str = "a value") -> Sequence[object]:
    """A list."""
    if not isinstance(value, list):
        raise BadRecording(f"{what} is not a list")
    return value


def an_int(value: object, what: str = "a value") -> int:
    """A whole number of 64 bits."""
    if type(value) is not int or not _INT_MIN <= value <= _INT_MAX:
        raise BadRecording(f"{what} is not a whole number of 64 bits")
    return value


def a_count(value: object, what: str = "a value") -> int:
    """A whole number from 0 on."""
    number = an_int(value, what)
    if number < 0:
        raise BadRecording(f"{what} is below 0")
    return number


def a_bool(value: object, what: str = "a value") -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise BadRecording(f"{what} is not true or false")
    return value


def a_text(value: object, what: str = "a value") -> str:
    """A text."""
    if not isinstance(value, str):
        raise BadRecording(f"{what} is not a text")
    return value


def some_bytes(value: object, what: str = "a value") -> bytes:
    """Bytes in hex."""
    try:
        return bytes.fromhex(a_text(value, what))
    except ValueError as error:
        raise BadRecording(f"{what} is not in hex") from error


def a_node_id(value: object, what: str = "a value") -> NodeId:
    """A node's key."""
    data = some_bytes(value, what)
    if len(data) != NODE_ID_BYTES:
        raise BadRecording(f"{what} is not a key of {NODE_ID_BYTES} bytes")
    return NodeId(data)


def ints(value: object, what: str = "a value") -> tuple[int, ...]:
    """Whole numbers."""
    return tuple(an_int(item, what) for item in a_list(value, what))


def blobs(value: object, what: str = "a value") -> tuple[bytes, ...]:
    """Byte strings."""
    return tuple(some_bytes(item, what) for item in a_list(value, what))


def an_address(value: object, what: str = "a value") -> Address:
    """A host and a port."""
    pair = a_list(value, what)
    if len(pair) != 2:
        raise BadRecording(f"{what} is not a host and a port")
    return Address(a_text(pair[0], what), an_int(pair[1], what))


def addresses(value: object, what: str = "a value") -> tuple[Address, ...]:
    """Hosts and ports."""
    return tuple(an_address(item, what) for item in a_list(value, what))


def a_failure(value: object, what: str = "a value") -> StreamFailure:
    """How a stream failed."""
    try:
        return StreamFailure(a_text(value, what))
    except ValueError as error:
        raise BadRecording(f"this meshd knows no such {what}") from error


def a_load(value: object, what: str = "a value") -> Load:
    """How busy a node is."""
    fields = an_object(value, what)
    return Load(*(taken(fields, field.name, an_int) for field in dataclasses.fields(Load)))
