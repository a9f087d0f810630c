"""The one place for what lives on simulated hosts, and how it begins: our nodes, or any others.

`World` knows of a node only what `participant.py` says. How one is made, how it is introduced to a
first acquaintance and what it remembers over a restart is the affair of a population.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from protocol.assembly import NodeConfig
from protocol.config import ProtocolConfig
from protocol.crypto import public_key_of
from protocol.effects import Effect
from protocol.events import AddressFound, SeedFound
from protocol.identity import MeshId, NodeId
from protocol.node import Node
from protocol.records import Records
from protocol.statements import Statements
from simulations.admissions import admit_all
from simulations.guard import Guard
from simulations.host import Host
from simulations.participant import Birth, NodeFactory, Participant


class Population(Protocol):
    """Makes the nodes of a world."""

    def make(self, host: Host, now: int, rng: random.Random) -> Participant:
        """A new process on a host, from what is on its disk."""

    def introduce(self, host: Host, other: Host, now: int) -> list[Effect]:
        """What a node that runs does to meet another."""

    def remember(self, host: Host) -> None:
        """A process ends: keep on its disk what it would find there."""


class MeshNodes:
    """Nodes of `protocol/`, admitted to one mesh before anything runs."""

    def __init__(
        self,
        hosts: Sequence[Host],
        root_seed: bytes,
        mesh: MeshId,
        config: ProtocolConfig,
        draw_bytes: Callable[[int], bytes],
    ) -> None:
        """All share one cache of checked statements and records, as their results are the same."""
        self._root = public_key_of(root_seed)
        self._config = config
        self._draw_bytes = draw_bytes
        self._statements = Statements(mesh)
        self._records = Records()
        admit_all(hosts, root_seed, mesh, draw_bytes)

    def make(self, host: Host, now: int, rng: random.Random) -> Participant:
        """One whose boot is above every boot that its host had."""
        clock_s = max(0, now // 10**9 + host.wall_ahead_s)
        host.boot = max(host.boot + 1, clock_s << 24 | rng.getrandbits(24))
        return Node(
            NodeConfig(
                name=f"n{host.index}",
                software="sim",
                root=self._root,
                boot=host.boot,
                boot_secret=self._draw_bytes(32),
                incarnation=host.incarnation,
                offers_version=host.offers_version,
                snapshot=host.snapshot,
                protocol=self._config,
            ),
            host.crypto,
            random.Random(rng.getrandbits(64)),  # noqa: S311  # a simulation must be repeatable
            self._statements,
            self._records,
        )

    def introduce(self, host: Host, other: Host, now: int) -> list[Effect]:
        """It says who it is by stream, as a joined node would."""
        assert host.mesh_node is not None  # made above
        return host.mesh_node.handle(SeedFound(other.crypto.node_id, other.address), now)

    def remember(self, host: Host) -> None:
        """Its snapshot, as of the end."""
        assert host.mesh_node is not None  # made above
        host.snapshot = host.mesh_node.snapshot()


class OtherNodes:
    """Nodes of another protocol."""

    def __init__(
        self, make_node: NodeFactory, config: ProtocolConfig, known: Mapping[NodeId, Host]
    ) -> None:
        """`known`: all hosts by their node's id."""
        self._make_node = make_node
        self._config = config
        self._known = known

    def make(self, host: Host, now: int, rng: random.Random) -> Participant:
        """One that is watched, as nobody else has tried it."""
        del now
        birth = Birth(
            node=host.crypto.node_id,
            rng=random.Random(rng.getrandbits(64)),  # noqa: S311  # a simulation must be repeatable
            protocol=self._config,
            incarnation=host.incarnation,
            memory=host.memory,
        )
        return Guard(self._make_node(birth), host.index, self._known)

    def introduce(self, host: Host, other: Host, now: int) -> list[Effect]:
        """It is told where somebody is."""
        assert host.node is not None  # made above
        return host.node.handle(AddressFound(other.crypto.node_id, other.address), now)

    def remember(self, host: Host) -> None:
        """What it says that it should know again, if it says anything."""
        assert isinstance(host.node, Guard)  # made above
        host.memory = host.node.snapshot()
