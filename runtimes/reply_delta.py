"""The one place for what an answer's text is read into."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Some of what is said to the reader."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Thoughts:
    """Some of what the model thought before."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins; numbers count from 0."""

    index: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class CallArguments:
    """Some of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = Content | Thoughts | CallBegin | CallArguments
