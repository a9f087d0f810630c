"""The one place where tests run functions as jobs."""

import json
import pathlib
from typing import Any, Final

import trio

from runtimes.functions.call import FunctionCall, Returned
from runtimes.functions.registry import BUILT_IN
from runtimes.functions.runner import FunctionRunner

TIMEOUT_S: Final = 30.0
Json = Any
_EXAMPLES: Final = "tests.runtimes.functions.examples"
_NAMES: Final = (
    "echo", "typed", "untyped", "read", "fail", "leave", "crash", "hang", "start_child", "shout",
    "write_to_every_pipe", "large", "deep", "no_json", "not_a_number", "hungry", "where",
    "NOT_CALLABLE", "missing", "object_to",
)  # fmt: skip


def make_runner(
    scratch: pathlib.Path,
    *,
    slots: int = 1,
    queue_max: int = 4,
    memory_bytes_max: int | None = None,
) -> FunctionRunner:
    """A runner of the examples and of what ships."""
    functions = {name: f"{_EXAMPLES}:{name}" for name in _NAMES}
    return FunctionRunner(
        {**functions, **BUILT_IN, "gone": "no.such.module:f"},
        scratch,
        slots=slots,
        queue_max=queue_max,
        memory_bytes_max=memory_bytes_max,
    )


def call(
    function: str, *, inputs: dict[str, bytes] | None = None, **arguments: Json
) -> FunctionCall:
    """A call with keyword arguments."""
    return FunctionCall(
        function=function,
        arguments=json.dumps(arguments).encode(),
        inputs=tuple((inputs or {}).items()),
    )


async def nothing() -> None:
    """What need not hear of the start."""


async def run(runner: FunctionRunner, what: FunctionCall) -> Returned:
    """Run it, with a time-out of the test's."""
    with trio.fail_after(TIMEOUT_S):
        return await runner.run(what, nothing, deadline_s=TIMEOUT_S)


def result_of(runner: FunctionRunner, what: FunctionCall) -> Any:  # noqa: ANN401  # any JSON
    """Its result, from a loop of its own."""
    return json.loads(trio.run(run, runner, what).result)
