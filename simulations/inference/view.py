"""The one place for what a gateway believes: who offers the model, how fast and how busy each is.

The twin of `meshd/view.py`: it is fed by the effects of the gateway's own node and by nothing else,
unless the workload says how late loads are known (`hearsay.py`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from protocol.effects import Effect, LoadLearned, MembershipChanged, OffersChanged
from protocol.errors import Refused
from protocol.fields import unpack
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import Load
from protocol.routing import Candidate
from protocol.speeds import Speed, Speeds, speed_in
from simulations.host import Host
from simulations.inference.server import MODEL_KEY

AGE_STEP_NS: Final = 10**8
"""Ages are counted by tenths of a second."""


class View:
    """One gateway's, for one life of its node."""

    def __init__(
        self,
        host: Host,
        now: Callable[[], int],
        own_load: Callable[[], Load],
        speeds: Speeds,
        *,
        is_told: bool,
    ) -> None:
        """`speeds`: as the gateway has learned them; `is_told`: what gossip tells of loads and
        speeds does not count.
        """
        self._host = host
        self._now = now
        self._own_load = own_load
        self._learned = speeds
        self._is_told = is_told
        self._offering: dict[NodeId, Speed | None] = {}
        """With the speed as each tells it."""
        self._loads: dict[NodeId, tuple[Load, int]] = {}
        self.ages: Counter[int] = Counter()
        """Of every load of another member that a choice was made by, in AGE_STEP_NS."""
        self.unknown = 0
        """Candidates whose load was not known at all when a choice was made."""

    def note(self, effect: Effect) -> None:
        """Take in what the node reports."""
        match effect:
            case LoadLearned():
                if not self._is_told:
                    self._loads[effect.node] = (effect.load, self._now())
            case OffersChanged() if effect.offer.key == MODEL_KEY:
                if not effect.offer.value:
                    self._offering.pop(effect.node, None)
                elif not self._is_told or effect.node not in self._offering:
                    self._offering[effect.node] = _speed_of(effect.offer.value)
            case MembershipChanged() if effect.state in (State.DEAD, State.LEFT):
                self._loads.pop(effect.node, None)

    def hear(self, member: NodeId, at_ns: int, load: Load, speed: Speed | None) -> None:
        """How a member was at a moment."""
        self._loads[member] = (load, at_ns)
        if member in self._offering:
            self._offering[member] = speed

    def offering(self) -> list[NodeId]:
        """Present members that offer the model."""
        node = self._host.mesh_node
        present = node.members.present() if node is not None else ()
        return [member for member in present if member in self._offering]

    def candidates(
        self, nodes: Iterable[NodeId], own_requests: Mapping[NodeId, int]
    ) -> list[Candidate]:
        """Some of these, as the daemon's view would give them."""
        node = self._host.mesh_node
        if node is None:
            return []
        own, now, members = node.node_id, self._now(), node.members
        found: list[Candidate] = []
        ages: list[int] = []
        for member in nodes:
            load: Load | None = None
            age_ns = 0
            if member == own:
                load = self._own_load()
            elif (known := self._loads.get(member)) is not None:
                load, heard_ns = known
                age_ns = now - heard_ns
                ages.append(age_ns // AGE_STEP_NS)
            else:
                self.unknown += 1
            found.append(
                Candidate(
                    node=member,
                    is_alive=members.state(member) is State.ALIVE,
                    load=load,
                    load_age_ns=age_ns,
                    own_requests=own_requests.get(member, 0),
                    round_trip_ns=0 if member == own else node.round_trip_ns(member),
                    speed=self._learned.of(member, "") or self._offering[member],
                )
            )
        self.ages.update(ages)
        return found

    def is_present(self, member: NodeId) -> bool:
        """Whether a member is alive or in doubt."""
        node = self._host.mesh_node
        return node is not None and node.members.is_present(member)


def _speed_of(value: bytes) -> Speed | None:
    try:
        fields = unpack(value)
    except Refused:
        return None
    return speed_in(fields) if isinstance(fields, dict) else None
