"""The one place for what may run on top of a simulated mesh, such as `inference/`."""

from typing import Protocol

from protocol.effects import Effect
from simulations.host import Host


class Listener(Protocol):
    """Hears of what is done to hosts, and of what nodes report."""

    def on_act(self, host: Host, act: str) -> None:
        """A host's process was started, crashed, paused or resumed."""

    def on_effect(self, host: Host, effect: Effect) -> None:
        """A node tells of a member, an offer or a load."""


class Deaf:
    """Nothing runs on top."""

    def on_act(self, host: Host, act: str) -> None:
        """Nothing."""

    def on_effect(self, host: Host, effect: Effect) -> None:
        """Nothing."""
