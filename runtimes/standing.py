"""The one place for how a model is doing on this machine, be it offered or not."""

import dataclasses
import enum
from typing import TYPE_CHECKING

from runtimes.room import Room

if TYPE_CHECKING:
    from runtimes.base import ModelCard


class ModelState(enum.StrEnum):
    """Whether a model can be asked."""

    READY = "ready"
    FETCHING = "fetching"
    """It is being downloaded."""
    LOADING = "loading"
    COLD = "cold"
    """It is loaded as soon as somebody asks."""
    DOWN = "down"
    """It was there, and is expected back."""
    UNUSABLE = "unusable"
    """It is not offered; `reason` says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenTimes:
    """How fast a model was when it was tried out, in nanoseconds per token."""

    prefill_ns: int
    """Of a prompt."""
    decode_ns: int
    """Of an answer that has the machine for itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """For people, and for who lets requests through."""

    card: "ModelCard"
    """What is known of it, offered or not."""
    state: ModelState
    share: float = 1.0
    """How much of what `state` says is done, 0 to 1."""
    ready_in_s: float = 0.0
    """For a request that comes now, about; 0: it is ready, or nothing can be said."""
    need: Room | None = None
    """The memory that it takes; None: unknown, or another machine's business."""
    times: TokenTimes | None = None
    """As they were measured when it was first loaded here; None: they were not."""
    reason: str = ""
    """Why it is not ready, where that is no matter of course."""
