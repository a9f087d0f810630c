"""The one place where JSON arguments and input files meet a function's parameters.

Everything that can be wrong with arguments is found before the function runs: an unknown or a
missing one, and a value that is not what a parameter's annotation says, where that is one of the
plain types of JSON. A `pathlib.Path` is always an input file that came with the job: a text
never becomes a path, so that nobody can have a node's own files read.
"""

import inspect
import json
import pathlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from runtimes.base import RuntimeFailure

_PLAIN: Mapping[object, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    list: (list,),
    dict: (dict,),
    None: (types.NoneType,),
    types.NoneType: (types.NoneType,),
    pathlib.Path: (pathlib.Path,),
}
_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_NAMES |= {list: "a list", dict: "an object", pathlib.Path: "an input file"}


def bind(
    function: Callable[..., Any], arguments: bytes, inputs: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    """The keyword arguments to call `function` with. Raises RuntimeFailure `bad_arguments`."""
    try:
        values = json.loads(arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _bad("the arguments are no JSON object")
    both = sorted(values.keys() & inputs.keys())
    if both:
        raise _bad(f"{both[0]!r} is given as an argument and as an input file")
    keywords = {**values, **inputs}
    try:
        inspect.signature(function).bind(**keywords)
    except TypeError as error:
        raise _bad(str(error)) from error
    hints = typing.get_type_hints(function)
    for name, value in keywords.items():
        if name in hints and not _fits(value, hints[name]):
            wanted = _NAMES.get(hints[name], "something else")
            raise _bad(f"{name!r} must be {wanted}")
        if isinstance(value, pathlib.Path) and not _takes_path(hints.get(name)):
            raise _bad(f"{name!r} takes no input file")
    return keywords


def _fits(value: object, hint: object) -> bool:
    """Whether `value` may be passed, as far as plain types tell; all else the function judges."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(hint)[0])
    allowed = _PLAIN.get(origin or hint) if _is_hashable(origin or hint) else None
    if allowed is None:
        return True
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed)


def _takes_path(hint: object) -> bool:
    if hint is None or hint is pathlib.Path or hint is Any:
        return True
    return any(_takes_path(option) for option in typing.get_args(hint))


def _is_hashable(value: object) -> bool:
    return type(value).__hash__ is not None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_arguments", message)
