"""The one place for when a scenario's acts happen, and to whom."""

import functools
import random

from simulations.acts import ACTS, Ending
from simulations.scenario import Act, Scenario
from simulations.section import ScenarioError
from simulations.world import World


class Director:
    """Lets a scenario's acts happen in a world."""

    def __init__(self, world: World, scenario: Scenario, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._scenario = scenario
        self._going_on: list[Ending] = []
        self.groups = scenario.network.regions.members(scenario.nodes)
        """Who was chosen under each name; a region is one from the beginning."""
        self.last_ns = max((a.at_ns + (a.for_ns or 0) for a in scenario.acts), default=0)
        """When the last act begins or ends, after the start."""

    def schedule(self) -> None:
        """From now on, which is the scenario's beginning."""
        for act in self._scenario.acts:
            self._world.at(act.at_ns, functools.partial(self._begin, act))

    def _begin(self, act: Act) -> None:
        nodes = self._chosen(act)
        end = ACTS[act.do].begin(self._world, nodes, act.options)
        if end is None:
            return
        self._going_on.append(end)
        if act.for_ns is not None:
            self._world.at(act.for_ns, functools.partial(self._end, end))

    def _end(self, end: Ending) -> None:
        if end in self._going_on:
            self._going_on.remove(end)
            end()

    def end_all(self) -> None:
        """Every act that still goes on ends now; who is down stays down."""
        for end in tuple(self._going_on):
            self._end(end)

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
    regions = scenario.network.regions
    made = {*regions.names, *(act.who.group for act in scenario.acts if act.who.group)}
    for act in scenario.acts:
        for name in (act.who.among, *act.who.but):
            if name and name not in made:
                raise ScenarioError(f"{scenario.name}: no act makes a group {name!r}")
        if act.for_ns is not None and not ACTS[act.do].has_end:
            raise ScenarioError(f"{scenario.name}: {act.do} has no end, so no for_s")
        if act.who.nodes and max(act.who.nodes) >= scenario.nodes:
            raise ScenarioError(
                f"{scenario.name}: node {max(act.who.nodes)} of {scenario.nodes}; they count from 0"
            )
