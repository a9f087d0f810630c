"""The one place for one simulated machine: its disk, its process, and how that process reads."""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from protocol.crypto import Crypto
from protocol.deadlines import NEVER
from protocol.identity import Address
from protocol.node import Node
from protocol.snapshot import Snapshot
from simulations.backup import Backup
from simulations.clock import Clock
from simulations.lag import Lag
from simulations.participant import Participant

PORT: Final = 7700
_PORTS: Final = 50_000
"""After so many moves a host is where it began."""
BACKLOG_MAX: Final = 2_048
"""What waits for a stopped process; beyond that, datagrams are lost as in a full socket buffer."""


@dataclasses.dataclass(slots=True, eq=False)
class Host:
    """One simulated machine, and the node that runs on it, if any."""

    index: int
    crypto: Crypto
    incarnation: int = 0
    offers_version: int = 0
    boot: int = 0
    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    admitted: Snapshot = dataclasses.field(default_factory=Snapshot)
    """What the disk held when it had just joined: all that is left when the rest is lost."""
    backup: Backup | None = None
    """The last copy of the disk, if any was made."""
    memory: Any = None
    """In the place of a snapshot, what a node of another protocol keeps."""
    node: Participant | None = None
    life: int = 0
    """Counts starts and ends, so that what was scheduled for an earlier life is dropped."""
    is_silent: bool = False
    """The machine is gone with its process: streams to it end in silence, not in a refusal."""
    is_paused: bool = False
    """The process is stopped (SIGSTOP): time passes, and what arrives waits in `backlog`."""
    backlog: deque[Callable[[], None]] = dataclasses.field(
        default_factory=lambda: deque(maxlen=BACKLOG_MAX)
    )
    starved_ns: tuple[int, int] | None = None
    """Bounds of how late the process reads each message; its timers fire on time ..."""
    is_slow: bool = False
    """... unless this: then they fire as late as messages are read."""
    clock: Clock | None = None
    """Its own clock; None goes with the world's."""
    wall_ahead_s: int = 0
    """How wrong its wall clock is."""
    lag: Lag = dataclasses.field(default_factory=Lag)
    """What its node was told of being woken late."""
    spins: int = 0
    """How often its node's deadline was due again at once, in a row."""
    address: Address = dataclasses.field(init=False)
    """Where its node is reached."""
    address_text: bytes = dataclasses.field(init=False)
    """The same, as the trace's hash takes it."""
    read_ns: int = 0
    """When a starved process reads the last message that arrived; it reads them in order."""

    armed_ns: int = NEVER
    """For when its node is woken next, at the latest."""

    def __post_init__(self) -> None:
        three = f"{self.index >> 16}.{self.index >> 8 & 255}.{self.index & 255}"
        self._be_at(Address(f"10.{three}", PORT))

    @property
    def mesh_node(self) -> Node | None:
        """What runs here if it is one of `protocol/`, for looking into it."""
        return self.node if isinstance(self.node, Node) else None

    def move(self) -> None:
        """Take an address that it never had."""
        port = PORT + (self.address.port - PORT + 1) % _PORTS
        self._be_at(Address(self.address.host, port))

    def _be_at(self, address: Address) -> None:
        self.address = address
        self.address_text = str(address).encode()

    def time(self, now: int) -> int:
        """What its clock shows."""
        return now if self.clock is None else self.clock.read(now)

    def lose_disk(self) -> None:
        """All but its key and its admission is gone, as after a restore from the first backup."""
        self.snapshot = self.admitted
        self.incarnation = self.offers_version = self.boot = 0

    def back_up(self) -> None:
        """Copy the disk."""
        self.backup = Backup(
            incarnation=self.incarnation,
            offers_version=self.offers_version,
            boot=self.boot,
            snapshot=self.snapshot,
            memory=self.memory,
        )

    def restore(self) -> None:
        """The disk is what it was when it was copied last, or when its owner had just joined."""
        copy = self.backup or Backup(snapshot=self.admitted)
        self.incarnation, self.offers_version = copy.incarnation, copy.offers_version
        self.boot, self.snapshot, self.memory = copy.boot, copy.snapshot, copy.memory

    def end_life(self) -> None:
        """The process is gone, with all that waited for it."""
        self.node = None
        self.life += 1
        self.is_paused = False
        self.backlog.clear()
        self.read_ns = 0
