"""The one place for the contract between a node and a function that runs as a job.

A function is a Python callable under a name. It takes keyword arguments of JSON values (and of
`pathlib.Path`, for input files) and returns a JSON value. It runs once, in a process of its own,
or it fails with a `RuntimeFailure`:

`unknown_function` (this node does not have it), `bad_arguments` (it cannot be called so; nothing
ran), `failed` (it raised, or its result is no JSON or too large), `crashed` (its process died),
`queue_full` and `unavailable` as for any runtime.
"""

import dataclasses
import re
from typing import Final

from runtimes.base import RuntimeFailure

ARGUMENTS_BYTES_MAX: Final = 1024 * 1024
INPUT_BYTES_MAX: Final = 4 * 1024 * 1024
"""All input files of one job together."""
INPUTS_MAX: Final = 16
RESULT_BYTES_MAX: Final = 1024 * 1024
"""As JSON in UTF-8."""
MESSAGE_CHARACTERS_MAX: Final = 500
PRIORITY_MAX: Final = 10
"""Priorities are from minus this to this; 0 is usual."""
DEPTH_MAX: Final = 64
"""Lists and objects within each other, in arguments and results."""
LOG_LINES_MAX: Final = 20
"""Of what a function prints, the last lines are kept."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """What to run."""

    function: str
    """The name under which it is registered."""
    arguments: bytes
    """A JSON object."""
    inputs: tuple[tuple[str, bytes], ...] = ()
    """Names of arguments that are files, and what is in them."""
    priority: int = 0
    """The higher, the sooner its turn; see PRIORITY_MAX."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A function's regular end."""

    result: bytes
    """A JSON value."""
    log: tuple[str, ...] = ()
    """The last lines that it printed."""


def is_function_name(text: str) -> bool:
    """Whether `text` can name a function or one of its arguments."""
    return _NAME.fullmatch(text) is not None


def is_shallow(value: object) -> bool:
    """Whether a JSON value is nested no deeper than DEPTH_MAX."""
    level = [value]
    for _ in range(DEPTH_MAX):
        lists = [item for item in level if isinstance(item, list)]
        objects = [item for item in level if isinstance(item, dict)]
        level = [item for items in lists for item in items]
        level += [item for items in objects for item in items.values()]
        if not level:
            return True
    return False


def check_call(call: FunctionCall) -> None:
    """Raise RuntimeFailure `bad_arguments` with one clear line, unless `call` is within limits."""
    if not is_function_name(call.function):
        raise _bad("that is no name of a function")
    if len(call.arguments) > ARGUMENTS_BYTES_MAX:
        raise _bad(f"the arguments have more than {ARGUMENTS_BYTES_MAX} bytes")
    if len(call.inputs) > INPUTS_MAX:
        raise _bad(f"a job has at most {INPUTS_MAX} input files")
    if len({name.lower() for name, _ in call.inputs}) < len(call.inputs):
        raise _bad("an input file is given twice")
    if not all(is_function_name(name) for name, _ in call.inputs):
        raise _bad("an input file must be named like an argument")
    if sum(len(content) for _, content in call.inputs) > INPUT_BYTES_MAX:
        raise _bad(f"the input files have more than {INPUT_BYTES_MAX} bytes together")
    if not -PRIORITY_MAX <= call.priority <= PRIORITY_MAX:
        raise _bad(f"the priority must be -{PRIORITY_MAX} to {PRIORITY_MAX}")


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_arguments", message)
