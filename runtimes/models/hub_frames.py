"""The one place for what a daemon and its downloading process say to each other.

daemon                downloader
  Fetch          ->
                 <-   Fetching ..., then one of Fetched, FetchFailed
"""

import dataclasses
from typing import Final, get_args

from runtimes.worker.framing import Codec

FRAME_BYTES_MAX: Final = 256 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Bring this model to the Hugging Face cache; the first frame, sent once."""

    repository: str
    quantization: str
    with_projector: bool
    """Whether its projector is wanted too, if it has one."""
    environment: tuple[tuple[str, ...], ...]
    """Pairs of name and value: what huggingface_hub reads, the token included."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """A sign of life."""

    name: str
    """The model that was chosen; empty while that is being found out."""
    done_bytes: int
    """What is on disk, also of former attempts."""
    total_bytes: int
    received_bytes: int
    """What has come over the network in this attempt."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """All files are there; where the first lies, as the file system encodes it."""

    path: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """This attempt failed. A code of `RuntimeFailure` (`unavailable`: try again) and a message."""

    code: str
    message: str


Frame = Fetch | Fetching | Fetched | FetchFailed

# A number belongs to its kind for ever: add at the end.
CODEC: Final = Codec[Frame](get_args(Frame), FRAME_BYTES_MAX)
