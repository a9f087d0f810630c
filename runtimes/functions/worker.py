"""The one place that runs in the process of one job: take the work, do it, say what came of it.

Started as `python -m runtimes.functions.worker PARENT_PID` in the job's working folder. What the
function prints goes to standard error, where it cannot be mistaken for a frame.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from runtimes.base import RuntimeFailure
from runtimes.functions.binding import bind
from runtimes.functions.call import (
    DEPTH_MAX,
    MESSAGE_CHARACTERS_MAX,
    RESULT_BYTES_MAX,
    is_shallow,
)
from runtimes.functions.confinement import confine
from runtimes.functions.frames import CODEC, Began, Refused, Result, Run
from runtimes.functions.registry import ENTRY_POINT_GROUP
from runtimes.worker.beginning import begin


def main() -> None:
    """The worker's life: one call."""
    pipe, run = begin(CODEC, Run)
    confine(cpu_s=run.cpu_s, memory_bytes=run.memory_bytes)
    outcome = answer(run, lambda: pipe.send(Began()))
    with contextlib.suppress(OSError, ValueError):  # the function may have closed it
        sys.stdout.flush()
        sys.stderr.flush()
    pipe.send(outcome)
    os._exit(0)  # threads and exit handlers that the function left behind do not matter any more


def answer(run: Run, on_start: Callable[[], None]) -> Result | Refused:
    """Do it; `on_start` is called when the arguments fit, right before the function is."""
    try:
        function, keywords = prepare(run)
        on_start()
        return Result(value=call(function, keywords))
    except RuntimeFailure as failure:
        message = failure.message[:MESSAGE_CHARACTERS_MAX].encode(errors="replace").decode()
        return Refused(code=failure.code, message=message)


def prepare(run: Run) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function, and what to call it with.

    Raises RuntimeFailure: `unavailable` when it does not load here, `bad_arguments`.
    """
    inputs = {name: pathlib.Path.cwd() / name for name in run.input_names}
    try:
        point = importlib.metadata.EntryPoint("function", run.target, ENTRY_POINT_GROUP)
        function = point.load()
        if not callable(function):
            raise TypeError("it is no function")
        return function, bind(function, run.arguments, inputs)
    except RuntimeFailure:
        raise
    except BaseException as error:
        raise RuntimeFailure("unavailable", f"it does not load here ({_said(error)})") from error


def call(function: Callable[..., Any], keywords: dict[str, Any]) -> bytes:
    """Its result as JSON. Raises RuntimeFailure `failed` for whatever else comes of it."""
    try:
        result = function(**keywords)
    except BaseException as error:
        raise RuntimeFailure("failed", _complaint(error)) from error
    try:
        value = json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        raise RuntimeFailure("failed", f"its result is no JSON ({_said(error)})") from error
    if len(value) > RESULT_BYTES_MAX:
        raise RuntimeFailure(
            "failed", f"its result has {len(value)} bytes, over the limit of {RESULT_BYTES_MAX}"
        )
    if not is_shallow(json.loads(value)):  # as it arrives: a tuple is a list by then
        raise RuntimeFailure("failed", f"its result is nested more than {DEPTH_MAX} deep")
    return value


def _complaint(error: BaseException) -> str:
    """What the person who submitted the job is told of a function that raised.

    With a ValueError or a TypeError a function says in words what it does not take; the type would
    only stand in the way. The type of any other error (one of these two's own kinds, such as
    UnicodeDecodeError, among them) is half of what it says: `KeyError: 'name'`.
    """
    if type(error) in (ValueError, TypeError):
        return _message(error) or _said(error)
    return _said(error)


def _said(error: BaseException) -> str:
    """Type and message on one line; never a traceback."""
    name, message = type(error).__name__, _message(error)
    return f"{name}: {message}" if message else name


def _message(error: BaseException) -> str:
    """Its text on one line; empty when it has none."""
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a foreign __str__
        return ""


if __name__ == "__main__":
    main()
