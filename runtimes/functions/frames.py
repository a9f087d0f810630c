"""The one place for what a daemon and the process of one job say to each other.

    daemon          worker
      Run      ->
               <-   Began, then Result       or  Refused
                    (or nothing more: it crashed)

How a frame becomes bytes, and what is refused, is in `runtimes/worker/framing.py`.
"""

import dataclasses
from typing import Final, get_args

from runtimes.worker.framing import Codec

FRAME_BYTES_MAX: Final = 2 * 1024 * 1024
"""Arguments and results are at most one MiB each; input files do not go through the pipe."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run this function; the first and only frame of the daemon."""

    target: str
    """MODULE:ATTRIBUTE."""
    arguments: bytes
    """A JSON object."""
    input_names: tuple[str, ...]
    """Arguments that are files of these names in the working folder."""
    cpu_s: int
    """Processor time at most."""
    memory_bytes: int
    """Address space at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """The arguments fit, and the function runs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the function returned, as JSON."""

    value: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It could not be run, or it failed. A code of `RuntimeFailure` and its message."""

    code: str
    message: str


Frame = Run | Began | Result | Refused

CODEC: Final = Codec[Frame](get_args(Frame), FRAME_BYTES_MAX)
