"""The one place for one run of one scenario: from the file and a seed to what it showed."""

import contextlib
import dataclasses
import gc
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from protocol.config import SECOND
from protocol.crypto import Crypto
from protocol.node import Node
from simulations import liveness
from simulations.checkers import CHECKERS, QUIET_LOSS_PPM, Story
from simulations.director import Director
from simulations.inference.measures import measures_of
from simulations.inference.service import Service
from simulations.measures import Measure, Measures
from simulations.origin import commit
from simulations.participant import NodeFactory, name_of
from simulations.pretend_crypto import PretendCrypto
from simulations.scenario import Scenario
from simulations.section import ScenarioError
from simulations.whole import make_whole
from simulations.world import World

FORMING_NS: Final = 300 * SECOND
"""A mesh that has not found together by then never will."""
SETTLE_NS: Final = 10 * SECOND
"""Rest between forming and the scenario's own beginning, so that no rumour is left of it."""
VIOLATIONS_SHOWN: Final = 20
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
    configuration: Mapping[str, Any]
    """What the scenario's file says."""
    commit: str
    """Of the code."""
    node: str
    """The class of the nodes, as `module:Class`."""
    violations: tuple[str, ...] | None = None
    """What should have held and did not (`checkers.py`, `liveness.py`); None: not looked for."""

    def to_json(self) -> dict[str, Any]:
        """As `meshd sim run --json` prints it."""
        fields = dataclasses.asdict(self)
        if self.violations is None:
            del fields["violations"]
        return fields


def run(
    scenario: Scenario,
    seed: int,
    *,
    make_crypto: Callable[[bytes], Crypto] = PretendCrypto,
    make_node: NodeFactory | None = None,
    watch: Callable[[World, int], None] | None = None,
    is_checked: bool = False,
) -> Result:
    """Let a scenario happen. `make_node` puts another protocol in the place of ours; `watch` sees
    the world when it is over, and the time in it at which the scenario began. With `is_checked`
    everything that must hold is looked at, and after the end all faults end and all must agree.

    Raises ScenarioError when a mesh that should be whole from the beginning does not come together.
    """
    with without_collections():
        return _run(scenario, seed, make_crypto, make_node, watch, is_checked=is_checked)


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
    watch: Callable[[World, int], None] | None,
    *,
    is_checked: bool,
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
    service = None if scenario.inference is None else Service(world, scenario.inference, seed)
    if service is not None:
        director.groups.update(service.groups)
    _form(world, scenario, is_ours=make_node is None)
    start_ns = world.now
    director.schedule()
    if service is not None:
        service.begin(scenario.duration_ns)
    world.run(start_ns + min(director.last_ns, scenario.duration_ns) - world.now)
    agreed_ns = _until_agreed(world, start_ns + scenario.duration_ns)
    measures = Measures(world, start_ns).all(has_formed=scenario.form == "together")
    since_ns = start_ns + director.last_ns
    measures["agreement_s"] = None if agreed_ns is None else (agreed_ns - since_ns) / SECOND
    if service is not None:
        measures.update(measures_of(service))
    if watch is not None:
        watch(world, start_ns)
    result = Result(
        scenario=scenario.name,
        seed=seed,
        nodes=scenario.nodes,
        trace_hash=world.trace_hash,
        measures=measures,
        configuration=scenario.content,
        commit=commit(),
        node=name_of(make_node or Node),
    )
    if not is_checked:
        return result
    return dataclasses.replace(result, violations=_violations(scenario, world, director))


def _violations(scenario: Scenario, world: World, director: Director) -> tuple[str, ...]:
    """First the end of all faults and what becomes of them, then what was written down."""
    liveness.heal(world, director)
    found = [(liveness.NAME, line) for line in liveness.violations(world, scenario.protocol)]
    network = scenario.network
    story = Story(
        world=world,
        protocol=scenario.protocol,
        episodes=director.episodes,
        is_lossy=max(network.loss_ppm, network.regions.loss_ppm) > QUIET_LOSS_PPM
        or network.line.is_limited,
    )
    for checker in CHECKERS:
        found += [(checker.name, line) for line in checker.violations(story)]
    shown = [f"{name}: {line}" for name, line in found[:VIOLATIONS_SHOWN]]
    if len(found) > VIOLATIONS_SHOWN:
        shown.append(f"and {len(found) - VIOLATIONS_SHOWN} more")
    return tuple(shown)


def _form(world: World, scenario: Scenario, *, is_ours: bool) -> None:
    """Start all nodes, and wait until the scenario may begin."""
    if scenario.form == "at_once":
        if not is_ours:
            raise ScenarioError(f"{scenario.name}: form = 'at_once' is for our own nodes only")
        for index in range(scenario.nodes):
            world.start(index)
        world.run(0)  # what is offered from the beginning
        make_whole(world)
        return
    for index in range(scenario.nodes):
        world.start(index, *[0][:index])
    if scenario.form == "whole":
        if not _has_formed(world, is_helped=not is_ours):
            raise ScenarioError(f"{scenario.name}: the mesh did not come together")
        world.run(SETTLE_NS)
        world.traffic.clear()


def _has_formed(world: World, *, is_helped: bool) -> bool:
    """Wait until all know all. Not every other protocol repairs what a join storm lost: those are
    introduced to whom they lack.
    """
    while is_helped and world.now < FORMING_NS:
        if world.run_until(world.is_converged, SETTLE_NS):
            return True
        _introduce_all(world)
    return world.run_until(world.is_converged, FORMING_NS - world.now)


def _introduce_all(world: World) -> None:
    for host in world.running():
        for other in world.running():
            if other is not host and world.agreement.state(host.index, other.index) is None:
                world.introduce(host.index, other.index)


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
