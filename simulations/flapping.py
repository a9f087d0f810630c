"""The one place for a host whose line comes and goes, each state stable for a while."""

from simulations.chance import between
from simulations.world import World

Span = tuple[int, int]
"""Shortest and longest, in nanoseconds."""


class Flapping:
    """Cuts one host off and lets it back, at random times, until it is ended."""

    def __init__(self, world: World, host: int, up_ns: Span, down_ns: Span) -> None:
        """It begins with the line up."""
        self._world = world
        self._host = host
        self._spans = {True: up_ns, False: down_ns}
        self._cut: int | None = None
        """Under which number it is cut off; None while the line is up."""
        self._is_over = False
        self._wait()

    def end(self) -> None:
        """The line is up from now on."""
        self._is_over = True
        self._change_to(is_up=True)

    def _wait(self) -> None:
        self._world.at(between(self._world.chance, self._spans[self._cut is None]), self._change)

    def _change(self) -> None:
        if self._is_over:
            return
        self._change_to(is_up=self._cut is not None)
        self._wait()

    def _change_to(self, *, is_up: bool) -> None:
        network = self._world.network
        if self._cut is not None:
            network.rejoin(self._cut)
        self._cut = None if is_up else network.separate([self._host])
