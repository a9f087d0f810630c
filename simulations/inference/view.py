"""The one place for what a gateway believes: who offers the model, and how busy each one is.

The twin of `meshd/view.py`: it is fed by the effects of the gateway's own node and by nothing else.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from protocol.effects import Effect, LoadLearned, MembershipChanged, OffersChanged
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import Load
from protocol.routing import Candidate
from simulations.host import Host
from simulations.inference.server import MODEL_KEY

AGE_STEP_NS: Final = 10**8
"""Ages are counted by tenths of a second."""
Told = Callable[[NodeId], tuple[Load, int]]
"""(load, its age in ns) of a member, when gossip is not to tell it."""


class View:
    """One gateway's, for one life of its node."""

    def __init__(
        self, host: Host, now: Callable[[], int], own_load: Callable[[], Load], told: Told | None
    ) -> None:
        self._host = host
        self._now = now
        self._own_load = own_load
        self._told = told
        self._offering: dict[NodeId, None] = {}
        self._loads: dict[NodeId, tuple[Load, int]] = {}
        self.ages: Counter[int] = Counter()
        """Of every load of another member that a choice was made by, in AGE_STEP_NS."""
        self.unknown = 0
        """Candidates whose load was not known at all when a choice was made."""

    def note(self, effect: Effect) -> None:
        """Take in what the node reports."""
        match effect:
            case LoadLearned():
                self._loads[effect.node] = (effect.load, self._now())
            case OffersChanged() if effect.offer.key == MODEL_KEY:
                if effect.offer.value:
                    self._offering[effect.node] = None
                else:
                    self._offering.pop(effect.node, None)
            case MembershipChanged() if effect.state in (State.DEAD, State.LEFT):
                self._loads.pop(effect.node, None)

    def candidates(self, own_requests: Mapping[NodeId, int]) -> list[Candidate]:
        """Present members that offer the model, as the daemon's view would give them."""
        node = self._host.mesh_node
        if node is None:
            return []
        own, now = node.node_id, self._now()
        found: list[Candidate] = []
        for member in node.members.present():
            if member not in self._offering:
                continue
            load: Load | None
            age_ns = 0
            if member == own:
                load = self._own_load()
            else:
                heard = self._told(member) if self._told else None
                if heard is not None:
                    load, age_ns = heard
                    self.ages[age_ns // AGE_STEP_NS] += 1
                elif (known := self._loads.get(member)) is not None:
                    load, heard_ns = known
                    age_ns = now - heard_ns
                    self.ages[age_ns // AGE_STEP_NS] += 1
                else:
                    load = None
                    self.unknown += 1
            found.append(
                Candidate(
                    node=member,
                    is_alive=node.members.state(member) is State.ALIVE,
                    load=load,
                    load_age_ns=age_ns,
                    own_requests=own_requests.get(member, 0),
                    round_trip_ns=0 if member == own else node.round_trip_ns(member),
                )
            )
        return found

    def is_present(self, member: NodeId) -> bool:
        """Whether a member is alive or in doubt."""
        node = self._host.mesh_node
        return node is not None and node.members.is_present(member)
