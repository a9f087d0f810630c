"""The one place for one run of one scenario: from the file and a seed to what it showed."""

import contextlib
import dataclasses
import gc
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from protocol.config import SECOND
from protocol.crypto import Crypto
from simulations.acts import READERS, Director, check_groups
from simulations.measures import Measure, Measures
from simulations.participant import NodeFactory
from simulations.pretend_crypto import PretendCrypto
from simulations.scenario import Scenario, ScenarioError, nearest, read_scenario
from simulations.world import World

LIBRARY: Final = pathlib.Path(__file__).parent / "scenarios"
FORMING_NS: Final = 300 * SECOND
"""A mesh that has not found together by then never will."""
SETTLE_NS: Final = 10 * SECOND
"""Rest between forming and the scenario's own beginning, so that no rumour is left of it."""
_AGREE_STEP_NS: Final = SECOND // 100
"""How exactly the moment of agreement is told."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run showed. Equal scenario, seed and code give an equal result."""

    scenario: str
    seed: int
    nodes: int
    trace_hash: str
    measures: dict[str, Measure]

    def to_json(self) -> dict[str, Any]:
        """As `meshd sim run --json` prints it."""
        return dataclasses.asdict(self)


def library() -> dict[str, pathlib.Path]:
    """The scenarios that ship, by name."""
    return {path.stem: path for path in sorted(LIBRARY.glob("*.toml"))}


def find_scenario(named: str) -> Scenario:
    """A scenario of the library by its name, or a file. Raises ScenarioError."""
    path = library().get(named)
    if path is None:
        path = pathlib.Path(named)
        if not path.exists() and path.suffix != ".toml":
            raise ScenarioError(f"no scenario {named!r}{nearest(named, library())}")
    scenario = read_scenario(path, READERS)
    check_groups(scenario)
    return scenario


def resized(scenario: Scenario, nodes: int) -> Scenario:
    """The same with another number of nodes. Raises ScenarioError if an act names one too many."""
    other = dataclasses.replace(scenario, nodes=nodes)
    check_groups(other)
    return other


def run(
    scenario: Scenario,
    seed: int,
    *,
    make_crypto: Callable[[bytes], Crypto] = PretendCrypto,
    make_node: NodeFactory | None = None,
    watch: Callable[[World], None] | None = None,
) -> Result:
    """Let a scenario happen. `make_node` puts another protocol in the place of ours; `watch` sees
    the world when it is over.

    Raises ScenarioError when a mesh that should be whole from the beginning does not come together.
    """
    with without_collections():
        return _run(scenario, seed, make_crypto, make_node, watch)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """A world makes hardly any garbage in circles while it runs; looking for it takes a tenth."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _run(
    scenario: Scenario,
    seed: int,
    make_crypto: Callable[[bytes], Crypto],
    make_node: NodeFactory | None,
    watch: Callable[[World], None] | None,
) -> Result:
    world = World(
        scenario.nodes,
        seed,
        network=dataclasses.replace(scenario.network),
        protocol=scenario.protocol,
        make_crypto=make_crypto,
        make_node=make_node,
    )
    director = Director(world, scenario, random.Random(seed + 3))  # noqa: S311  # repeatable
    for index in range(scenario.nodes):
        world.start(index, *[0][:index])
    if scenario.form == "whole":
        if not _has_formed(world, is_helped=make_node is not None):
            raise ScenarioError(f"{scenario.name}: the mesh did not come together")
        world.run(SETTLE_NS)
        world.traffic.clear()
    start_ns = world.now if scenario.form == "whole" else 0
    director.schedule()
    world.run(start_ns + min(director.last_ns, scenario.duration_ns) - world.now)
    agreed_ns = _until_agreed(world, start_ns + scenario.duration_ns)
    measures = Measures(world, start_ns).all(has_formed=scenario.form == "together")
    since_ns = start_ns + director.last_ns
    measures["agreement_s"] = None if agreed_ns is None else (agreed_ns - since_ns) / SECOND
    if watch is not None:
        watch(world)
    return Result(
        scenario=scenario.name,
        seed=seed,
        nodes=scenario.nodes,
        trace_hash=world.trace_hash,
        measures=measures,
    )


def _has_formed(world: World, *, is_helped: bool) -> bool:
    """Wait until all know all. Not every other protocol repairs what a join storm lost: those are
    introduced to whom they lack.
    """
    while is_helped and world.now < FORMING_NS:
        if world.run_until(world.is_converged, SETTLE_NS):
            return True
        world.introduce_all()
    return world.run_until(world.is_converged, FORMING_NS - world.now)


def _until_agreed(world: World, end_ns: int) -> int | None:
    """Run to the end; when all running nodes began to see exactly the running ones, for good."""
    agreed_ns: int | None = None
    while world.now < end_ns:
        if not world.is_agreed():
            agreed_ns = None
        elif agreed_ns is None:
            agreed_ns = world.now
        world.run(min(_AGREE_STEP_NS, end_ns - world.now))
    return agreed_ns if world.is_agreed() else None
