"""The one place for telling a death that was declared by mistake from one that is true."""

from collections.abc import Mapping

from protocol.effects import MembershipChanged
from protocol.identity import NodeId
from protocol.members import State
from simulations.host import Host
from simulations.network import Network


class Verdicts:
    """Judges what nodes say of each other by what is so."""

    def __init__(self, network: Network, known: Mapping[NodeId, Host]) -> None:
        self._network = network
        self._known = known
        self.mistakes: list[tuple[int, int, int]] = []
        """(time, observer, subject): called dead while it ran and could be reached."""

    def judge(self, now: int, observer: Host, change: MembershipChanged) -> None:
        """A node sees another in a new way."""
        if change.state is not State.DEAD:
            return
        subject = self._known[change.node]
        both = (observer.index, subject.index)
        is_connected = self._network.is_connected
        is_reached = is_connected(*both) and is_connected(*both[::-1])
        if subject.node is not None and not subject.is_paused and is_reached:
            self.mistakes.append((now, *both))
