"""The one place for what a scenario can do to nodes, by name.

Each act has a beginning and, where it makes sense, an end (`for_s`). What is drawn at random (whom
it happens to) comes from the scenario's own generator, so that the same seed picks the same.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from protocol.config import MILLISECOND
from simulations.scenario import Act, Scenario, ScenarioError, Section
from simulations.world import World

Options = Mapping[str, Any]
Doing = Callable[[World, Sequence[int], Options], None]


def _nothing(section: Section) -> Options:
    del section
    return {}


@dataclasses.dataclass(frozen=True, slots=True)
class ActKind:
    """One thing that can be done."""

    begin: Doing
    end: Doing | None = None
    """None: it does not end by itself."""
    keys: tuple[str, ...] = ()
    """Its own options in the file."""
    read: Callable[[Section], Options] = _nothing


def _each(do: Callable[[World, int], None]) -> Doing:
    """The same to one after the other."""

    def doing(world: World, nodes: Sequence[int], options: Options) -> None:
        del options
        for node in nodes:
            do(world, node)

    return doing


# ---- the acts ----


def _crash(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        if world.hosts[node].node is not None:
            world.crash(node, is_silent=options["silent"])


def _start(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        if world.hosts[node].node is None:
            if options["new_address"]:
                world.move(node)
            world.start(node, *[0][:node])


def _restart(world: World, nodes: Sequence[int], options: Options) -> None:
    _crash(world, nodes, {"silent": False})
    _start(world, nodes, options)


def _leave(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    for node in nodes:
        if world.hosts[node].node is not None:
            world.leave(node)


def _starve(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        world.starve(node, *options["late_ns"])


def _cut(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    world.network.separate(nodes)


def _heal(world: World, nodes: Sequence[int], options: Options) -> None:
    del options
    world.network.rejoin(nodes)


def _ways(world: World, nodes: Sequence[int], options: Options) -> tuple[Sequence[int], list[int]]:
    others = [host.index for host in world.hosts if host.index not in nodes]
    return (nodes, others) if options["direction"] == "out" else (others, list(nodes))


def _block(world: World, nodes: Sequence[int], options: Options) -> None:
    world.network.block(*_ways(world, nodes, options))


def _unblock(world: World, nodes: Sequence[int], options: Options) -> None:
    world.network.unblock(*_ways(world, nodes, options))


def _lose(world: World, nodes: Sequence[int], options: Options) -> None:
    for node in nodes:
        world.network.set_host_loss(node, options["loss_ppm"])


def _silent(section: Section) -> Options:
    return {"silent": section.flag("silent", default=False)}


def _new_address(section: Section) -> Options:
    return {"new_address": section.flag("new_address", default=False)}


def _late(section: Section) -> Options:
    return {"late_ns": section.span("late_ms", MILLISECOND, (500, 2_500))}


def _direction(section: Section) -> Options:
    return {"direction": section.text("direction", "out", ("in", "out"))}


def _loss(section: Section) -> Options:
    return {"loss_ppm": round(section.number("percent", 0, 100) * 10_000)}


ACTS: Final[Mapping[str, ActKind]] = {
    "crash": ActKind(_crash, None, ("silent",), _silent),
    "start": ActKind(_start, None, ("new_address",), _new_address),
    "restart": ActKind(_restart, None, ("new_address",), _new_address),
    "leave": ActKind(_leave),
    "pause": ActKind(_each(World.pause), _each(World.resume)),
    "starve": ActKind(
        _starve, _each(lambda world, node: world.starve(node, 0, 0)), ("late_ms",), _late
    ),
    "cut": ActKind(_cut, _heal),
    "block": ActKind(_block, _unblock, ("direction",), _direction),
    "loss": ActKind(
        _lose,
        _each(lambda world, node: world.network.set_host_loss(node, 0)),
        ("percent",),
        _loss,
    ),
    "unplug": ActKind(
        _each(lambda world, node: world.network.unplug(node)),
        _each(lambda world, node: world.network.plug_in(node)),
    ),
    "move": ActKind(_each(World.move)),
}
READERS: Final = {name: (kind.keys, kind.read) for name, kind in ACTS.items()}
"""For `scenario.read_scenario`."""


class Director:
    """Lets a scenario's acts happen in a world."""

    def __init__(self, world: World, scenario: Scenario, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._scenario = scenario
        self.groups: dict[str, list[int]] = {}
        """Who was chosen under each name."""
        self.last_ns = max((a.at_ns + (a.for_ns or 0) for a in scenario.acts), default=0)
        """When the last act begins or ends, after the start."""

    def schedule(self) -> None:
        """From now on, which is the scenario's beginning."""
        for act in self._scenario.acts:
            self._world.at(act.at_ns, functools.partial(self._begin, act))

    def _begin(self, act: Act) -> None:
        nodes = self._chosen(act)
        kind = ACTS[act.do]
        kind.begin(self._world, nodes, act.options)
        if act.for_ns is not None and kind.end is not None:
            self._world.at(act.for_ns, functools.partial(kind.end, self._world, nodes, act.options))

    def _chosen(self, act: Act) -> list[int]:
        who = act.who
        everybody = range(len(self._world.hosts))
        barred = {node for name in who.but for node in self._group(name)}
        pool = [
            node
            for node in (self._group(who.among) if who.among else everybody)
            if node not in barred
        ]
        if who.nodes:
            chosen = [node for node in who.nodes if node in everybody]
        else:
            count = who.count or round(len(everybody) * who.share_ppm / 1_000_000)
            chosen = sorted(self._rng.sample(pool, min(count, len(pool))))
        if who.group:
            known = self.groups.setdefault(who.group, [])
            known.extend(node for node in chosen if node not in known)
        return chosen

    def _group(self, name: str) -> list[int]:
        return self.groups.get(name, [])


def check_groups(scenario: Scenario) -> None:
    """Raise ScenarioError for an act on a group that no act makes, or an end that never comes."""
    made = {act.who.group for act in scenario.acts if act.who.group}
    made.update(scenario.inference.group_names if scenario.inference else ())
    for act in scenario.acts:
        for name in (act.who.among, *act.who.but):
            if name and name not in made:
                raise ScenarioError(f"{scenario.name}: no act makes a group {name!r}")
        if act.for_ns is not None and ACTS[act.do].end is None:
            raise ScenarioError(f"{scenario.name}: {act.do} has no end, so no for_s")
        if act.who.nodes and max(act.who.nodes) >= scenario.nodes:
            raise ScenarioError(
                f"{scenario.name}: node {max(act.who.nodes)} of {scenario.nodes}; they count from 0"
            )
