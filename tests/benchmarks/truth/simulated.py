"""The one place for the membership benchmark's cases in virtual time: same acts, rests, figures.

Where the benchmark does a thing again and again to one mesh, so does this; what differs from run to
run (when in its interval each member probes, whom, and when the fault comes) comes from the seed.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from protocol.config import SECOND
from protocol.events import OfferChanged, RecordIssued
from protocol.members import State
from protocol.snapshot import Snapshot
from protocol.statements import Alive, decode_statement
from simulations.pretend_crypto import PretendCrypto
from simulations.processors import BusyWorld
from simulations.world import World
from tests.benchmarks.membership.cases import LIMIT_S, Row
from tests.benchmarks.membership.fleet import BATCH, WHOLE_S
from tests.benchmarks.truth import calibration

_LOOK_NS: Final = SECOND // 20
"""So often it is looked whether a case is over; figures are exact whatever this is."""


class DidNotForm(Exception):
    """A simulated mesh that did not become whole; the text says of which seed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is simulated as one mesh."""

    seed: int
    nodes: int
    runs: int
    """How often the case's act is done to this mesh."""
    settle_s: float = 8.0
    long_s: float = 75.0


class Mesh:
    """A world and what the benchmark's fleet can do to it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.nodes = part.nodes
        self._rng = random.Random(part.seed + 1_000_003)  # must be repeatable
        self.world = World(
            part.nodes, part.seed, network=calibration.loopback(), make_crypto=PretendCrypto
        )

    def form(self) -> None:
        """Batch after batch starts and joins through the first, as `Fleet.form` lets them."""
        for index in range(self.nodes):
            if index % BATCH == 1:
                self.world.run(calibration.STARTED_NS)
            self.begin(index, *[0][:index])
        self.wait_whole()

    def begin(self, index: int, *seeds: int) -> None:
        """A process starts, and is late to all as a real one is."""
        self.world.start(index, *seeds)
        self.world.starve(index, *calibration.LATE_NS, is_slow=True)

    def wait_whole(self) -> None:
        """Raises DidNotForm."""
        if not self.wait(self.world.is_agreed, WHOLE_S):
            raise DidNotForm(f"seed {self.part.seed}: not whole after {WHOLE_S:g} s")

    def rest(self) -> None:
        """As long as the benchmark rests, and up to one interval more: faults come at any phase."""
        self.world.run(round(self.part.settle_s * SECOND) + self._rng.getrandbits(30))

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Let time pass until it holds; False when the time was over before."""
        end = self.world.now + round(within_s * SECOND)
        while not condition():
            if self.world.now >= end:
                return False
            self.world.run(_LOOK_NS)
        return True

    def pairs(self, mark: int, state: State) -> dict[tuple[int, int], int]:
        """See `_pairs`."""
        return _pairs(self.world, mark, state)


def _pairs(world: World, mark: int, state: State) -> dict[tuple[int, int], int]:
    """By observer and subject, when that state was first told after `mark`."""
    found: dict[tuple[int, int], int] = {}
    for at_ns, observer, change in world.changes[mark:]:
        if change.state is state and world.host_of(change.node).index != observer:
            found.setdefault((observer, world.host_of(change.node).index), at_ns)
    return found


def death(part: Part) -> Iterator[Row]:
    """As `cases.death`: its process is gone, its host refuses streams."""
    mesh = Mesh(part)
    mesh.form()
    for run in range(part.runs):
        victim = 1 + (part.seed * part.runs + run) % (part.nodes - 1)
        mesh.rest()
        mark, began_ns = len(mesh.world.changes), mesh.world.now
        mesh.world.crash(victim)
        yield _wait_dead(mesh, victim, mark, began_ns)
        mesh.world.run(calibration.STARTED_NS)
        mesh.begin(victim)
        mesh.wait_whole()


def host_gone(part: Part) -> Iterator[Row]:
    """As `cases.host_gone`: nothing passes between the last one and all others, silently."""
    mesh = Mesh(part)
    mesh.form()
    victim = part.nodes - 1
    for _ in range(part.runs):
        mesh.rest()
        mark, began_ns = len(mesh.world.changes), mesh.world.now
        mesh.world.network.cut({victim: 1})
        yield _wait_dead(mesh, victim, mark, began_ns)
        mesh.world.network.cut({})
        mesh.wait_whole()


def _wait_dead(mesh: Mesh, victim: int, mark: int, began_ns: int) -> Row:
    others = mesh.nodes - 1

    def deaths() -> list[int]:
        pairs = mesh.pairs(mark, State.DEAD)
        return [at for (_, subject), at in pairs.items() if subject == victim]

    is_known = mesh.wait(lambda: len(deaths()) == others, LIMIT_S)
    suspicions = mesh.pairs(mark, State.SUSPECT)
    firsts = [at for (_, subject), at in suspicions.items() if subject == victim]
    times = deaths()
    return {
        "first suspect s": (min(firsts) - began_ns) / SECOND if firsts else None,
        "first dead s": (min(times) - began_ns) / SECOND if times else None,
        "last dead s": (max(times) - began_ns) / SECOND if is_known else None,
    }


def partition(part: Part) -> Iterator[Row]:
    """As `cases.partition`: two halves do not hear each other, long enough to give up; it heals."""
    mesh = Mesh(part)
    mesh.form()
    half = part.nodes // 2
    for _ in range(part.runs):
        mesh.rest()
        mark, began_ns = len(mesh.world.changes), mesh.world.now
        mesh.world.network.cut(dict.fromkeys(range(half, part.nodes), 1))
        mesh.world.run(round(part.long_s * SECOND))
        mesh.world.network.cut({})
        deaths = mesh.pairs(mark, State.DEAD)
        across = [at for (one, other), at in deaths.items() if (one < half) != (other < half)]
        is_complete = len(across) == 2 * half * (part.nodes - half)
        healed, healed_ns = len(mesh.world.changes), mesh.world.now
        mesh.wait_whole()
        changes = mesh.world.changes[healed:]
        last_ns = max(
            (at for at, _, change in changes if change.state is not State.SUSPECT),
            default=healed_ns,
        )
        yield {
            "first across dead s": (min(across) - began_ns) / SECOND if across else None,
            "all across dead s": (max(across) - began_ns) / SECOND if is_complete else None,
            "one view after healing s": (last_ns - healed_ns) / SECOND,
        }


def join_storm(part: Part) -> Iterator[Row]:
    """As `cases.join_storm`, a new mesh each run, on processors that all share.

    Asking the seed and starting anew are work of so much time; the seed takes up each newcomer's
    admission when it asks, and answers with all that it knows by then.
    """
    for run in range(part.runs):
        seed = part.seed * part.runs + run
        world = BusyWorld(
            part.nodes,
            seed,
            calibration.PROCESSORS,
            network=calibration.loopback(),
            make_crypto=PretendCrypto,
        )
        _start_joined(world, 0)
        world.run(SECOND)
        began_ns, mark = world.now, len(world.changes)
        for index in range(1, part.nodes):
            world.work(index, calibration.ASK_NS, functools.partial(_ask, world, index))
        is_whole = world.run_until(
            lambda world=world: len(world.running()) == part.nodes and world.is_agreed(),  # type: ignore[misc]
            round(WHOLE_S * SECOND),
        )
        times = sorted(at - began_ns for at in _pairs(world, mark, State.ALIVE).values())
        count = part.nodes * (part.nodes - 1)
        yield {
            "half of all pairs s": _nth_s(times, count // 2),
            "99 % of all pairs s": _nth_s(times, count * 99 // 100),
            "until all see all s": times[-1] / SECOND if is_whole else None,
        }


def _nth_s(times: Sequence[int], number: int) -> float | None:
    return times[number - 1] / SECOND if number <= len(times) else None


def _start_joined(world: BusyWorld, index: int) -> None:
    """It is a member, and states what a daemon without a model does: its hardware."""
    world.start(index)
    world.give(world.hosts[index], OfferChanged("hardware", bytes(calibration.OFFER_BYTES)))


def _ask(world: BusyWorld, index: int) -> None:
    """A newcomer's request is on its way to the seed."""
    admit = functools.partial(_admit, world, index)
    cost_ns = calibration.PROCESSORS.event_ns + calibration.PROCESSORS.stream_ns
    world.at(calibration.TALK_NS, world.work, 0, cost_ns, admit)


def _admit(world: BusyWorld, index: int) -> None:
    seed, host = world.hosts[0], world.hosts[index]
    world.give(seed, RecordIssued(host.admitted.records[-1]))

    def answer() -> None:
        assert seed.mesh_node is not None  # nothing ends it
        records, statements = seed.mesh_node.join_state()
        known = dict.fromkeys((*host.admitted.records, *records))
        lives = tuple(wire for wire in statements if isinstance(decode_statement(wire), Alive))
        host.snapshot = Snapshot(tuple(known), lives)
        begin = functools.partial(_start_joined, world, index)
        world.at(calibration.TALK_NS, world.work, index, calibration.BEGIN_NS, begin)

    world.work(0, 0, answer)


CASES: Final[dict[str, Callable[[Part], Iterator[Row]]]] = {
    "death": death,
    "host_gone": host_gone,
    "partition": partition,
    "join_storm": join_storm,
}


def simulate(case: str, part: Part) -> list[Row]:
    """All rows of one mesh."""
    return list(CASES[case](part))
