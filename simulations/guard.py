"""The one place for watching a node of another protocol: its first bug is one clear line.

What it raises and what it asks of nobody end the run with who, when and where; the exception itself
is the cause that a debugger shows.
"""

import traceback
from collections.abc import Container
from typing import Any

from protocol.config import SECOND
from protocol.effects import Effect, MembershipChanged, OpenStream
from protocol.events import Event
from protocol.identity import NodeId
from simulations.section import ScenarioError


class Guard:
    """Stands before one node."""

    def __init__(self, inner: Any, index: int, known: Container[NodeId]) -> None:  # noqa: ANN401
        """`inner`: whatever has `handle` and `deadline`; `index`: of its host."""
        self.inner = inner
        self._index = index
        self._known = known

    @property
    def deadline(self) -> int:
        """The inner node's."""
        try:
            deadline = self.inner.deadline
        except Exception as error:
            raise ScenarioError(f"{self._who()}: deadline failed: {said(error)}") from error
        if type(deadline) is not int:
            raise ScenarioError(f"{self._who()}: deadline is {deadline!r}, no whole nanoseconds")
        return deadline

    def handle(self, event: Event, now: int) -> list[Effect]:
        """Pass an event on. Raises ScenarioError for what no node may do."""
        try:
            effects: list[Effect] = list(self.inner.handle(event, now))
        except Exception as error:
            told = f"{type(event).__name__}: {said(error)}"
            raise ScenarioError(f"{self._at(now)} failed at {told}") from error
        for effect in effects:
            self._check(effect, now)
        return effects

    def snapshot(self) -> object:
        """What the inner node wants to know again; None if it has no such method."""
        try:
            return self.inner.snapshot() if hasattr(self.inner, "snapshot") else None
        except Exception as error:
            raise ScenarioError(f"{self._who()}: snapshot failed: {said(error)}") from error

    def _check(self, effect: Effect, now: int) -> None:
        name: NodeId | None = None
        if isinstance(effect, OpenStream):
            name = effect.peer
        elif isinstance(effect, MembershipChanged):
            name = effect.node
        if name is not None and name not in self._known:
            raise ScenarioError(f"{self._at(now)}: {type(effect).__name__} of nobody, {name!r}")

    def _who(self) -> str:
        return f"{type(self.inner).__name__} n{self._index}"

    def _at(self, now: int) -> str:
        return f"{self._who()} at {now / SECOND:.3f} s"


def said(error: BaseException) -> str:
    """An exception in one line: its kind, its first words, and where it was raised."""
    words = str(error).splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {words[0]}{place}"
