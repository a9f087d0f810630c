"""The one place where jobs and their results become the opaque bodies that peers exchange.

Bodies from peers are hostile: reading one gives a value or raises BadPayload.
"""

from typing import Final

from meshd.payloads import BadPayload
from protocol.errors import Refused
from protocol.fields import Fields, pack, unpack_fields
from runtimes.functions.call import (
    ARGUMENTS_BYTES_MAX,
    INPUT_BYTES_MAX,
    INPUTS_MAX,
    LOG_LINES_MAX,
    PRIORITY_MAX,
    RESULT_BYTES_MAX,
    FunctionCall,
    Returned,
)

_VERSION: Final = 1
_RUNTIME: Final = "function"
_LINE_CHARS_MAX: Final = 400
_ARRAYS_MAX: Final = 64
_ITEMS_MAX: Final = 64
"""A call has an array for each of its input files; a later version may add some."""


def pack_call(call: FunctionCall) -> bytes:
    """The body of an Ask."""
    priority = call.priority + PRIORITY_MAX
    return pack((_VERSION, _RUNTIME, call.function, call.arguments, call.inputs, priority))


def unpack_call(body: bytes) -> FunctionCall:
    """The inverse. Raises BadPayload. What a call may ask for, the runner judges."""
    try:
        fields = unpack_fields(body, _ARRAYS_MAX, _ITEMS_MAX)
        if fields.take_int(0, 2**31) != _VERSION:
            raise BadPayload("a task of another version")
        if fields.take_text(64) != _RUNTIME:
            raise BadPayload("a task for a runtime that is not here")
        return FunctionCall(
            function=fields.take_text(64),
            arguments=fields.take_blob(ARGUMENTS_BYTES_MAX),
            inputs=tuple(_input(item) for item in fields.take_array(INPUTS_MAX)),
            priority=fields.take_int(0, 2 * PRIORITY_MAX) - PRIORITY_MAX,
        )
    except Refused as refused:
        raise BadPayload(str(refused)) from refused


def _input(item: object) -> tuple[str, bytes]:
    pair = Fields(item)
    return pair.take_text(64), pair.take_blob(INPUT_BYTES_MAX)


def pack_returned(returned: Returned) -> bytes:
    """The body of an End."""
    return pack((returned.result, returned.log))


def unpack_returned(body: bytes) -> Returned:
    """The inverse. Raises BadPayload."""
    try:
        fields = unpack_fields(body, _ARRAYS_MAX, _ITEMS_MAX)
        result = fields.take_blob(RESULT_BYTES_MAX)
        lines = tuple(map(_line, fields.take_array(LOG_LINES_MAX)))
    except Refused as refused:
        raise BadPayload(str(refused)) from refused
    return Returned(result=result, log=lines)


def _line(item: object) -> str:
    if not isinstance(item, str) or len(item) > _LINE_CHARS_MAX or not item.isprintable():
        raise BadPayload("no line of a log")
    return item
