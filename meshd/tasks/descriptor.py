"""The one place for what a job looks like when it is submitted: versioned JSON, all of it checked.

A key that is not known is refused with the nearest one that is: a requirement that nobody reads
would be worse than an error.
"""

import difflib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import pydantic

from meshd.failures import ExitCode, UserError
from meshd.tasks.jobs import DEADLINE_S_MAX
from runtimes.base import RuntimeFailure
from runtimes.functions.call import (
    INPUT_BYTES_MAX,
    PRIORITY_MAX,
    FunctionCall,
    check_call,
    is_shallow,
)

RETRIES_MAX: Final = 10
_CONFIG = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_Text = Annotated[str, pydantic.Field(min_length=1, max_length=200)]
_FilePath = Annotated[str, pydantic.Field(min_length=1, max_length=4096)]


class Requirements(pydantic.BaseModel):
    """Where a job may run."""

    model_config = _CONFIG

    labels: dict[_Text, str] = pydantic.Field(default_factory=dict, max_length=16)
    """Labels that the node must have."""
    tier_max: Annotated[int, pydantic.Field(ge=1, le=3)] | None = None
    """The node's tier at most; 1 is the strongest."""
    node: _Text | None = None
    """Only this node, by name or id."""


class JobDescriptor(pydantic.BaseModel):
    """A job as it is submitted."""

    model_config = _CONFIG

    schema_version: Literal["1.0"] = "1.0"
    job_id: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")] | None = (
        None
    )
    """None: one is made up."""
    runtime: Literal["function"] = "function"
    function: Annotated[str, pydantic.Field(min_length=1, max_length=64)]
    arguments: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Keyword arguments, JSON values."""
    inputs: dict[str, _FilePath] = pydantic.Field(default_factory=dict)
    """Keyword arguments that are files: their paths on the submitting machine."""
    requirements: Requirements = Requirements()
    priority: Annotated[int, pydantic.Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    """In the queue of the node that runs it, the higher comes first."""
    deadline_s: Annotated[float, pydantic.Field(gt=0, le=DEADLINE_S_MAX)] = 600.0
    """Seconds from submission after which it fails with `timeout`, whatever it is doing."""
    retries: Annotated[int, pydantic.Field(ge=0, le=RETRIES_MAX)] = 2
    """How often it is begun again after a crash or the loss of its node."""


def read_descriptor(value: object) -> JobDescriptor:
    """A job from decoded JSON. Raises UserError (wrong usage) with one line about what is wrong."""
    try:
        return JobDescriptor.model_validate(value)
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        # A missing key is often one that was misspelt.
        first = min(errors, key=lambda entry: entry["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            raise _wrong(_unknown_key(path)) from None
        where = f"{'.'.join(path)[:100]!r}: " if path else ""
        raise _wrong(f"the job is not valid: {where}{first['msg']}") from None


def read_call(descriptor: JobDescriptor) -> FunctionCall:
    """What a job asks for, with its input files read; blocks.

    Raises UserError for a file that cannot be read and for what is over the limits.
    """
    room = INPUT_BYTES_MAX
    inputs: list[tuple[str, bytes]] = []
    for name, text in descriptor.inputs.items():
        content = _read_input(name, pathlib.Path(text), room)
        room -= len(content)
        inputs.append((name, content))
    try:
        if not is_shallow(descriptor.arguments):
            raise ValueError
        arguments = json.dumps(descriptor.arguments, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise _wrong("the job is not valid: 'arguments': no JSON, or nested too deep") from None
    call = FunctionCall(
        function=descriptor.function,
        arguments=arguments,
        inputs=tuple(inputs),
        priority=descriptor.priority,
    )
    try:
        check_call(call)
    except RuntimeFailure as failure:
        raise _wrong(f"the job is not valid: {failure.message}") from failure
    return call


def _read_input(name: str, path: pathlib.Path, room: int) -> bytes:
    if not path.is_absolute():
        raise _wrong(f"the job is not valid: the input {name!r} needs an absolute path")
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise UserError(f"the input {name!r}: there is no file {path}")
        with path.open("rb") as file:
            content = file.read(room + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"the input {name!r}: cannot read {path}: {reason}") from error
    if len(content) > room:
        raise UserError(f"the input files have more than {INPUT_BYTES_MAX} bytes together")
    return content


def _unknown_key(path: Sequence[str]) -> str:
    """How to say that there is no such key, and which was meant."""
    model = Requirements if path[:-1] == ["requirements"] else JobDescriptor
    known = sorted(model.model_fields)
    nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    meant = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(known)}"
    return f"the job has an unknown key {'.'.join(path)[:100]!r}; {meant}"


def _wrong(message: str) -> UserError:
    return UserError(message, ExitCode.WRONG_USAGE)
