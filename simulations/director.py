"""The one place for when a scenario's acts happen, and to whom."""

import dataclasses
import functools
import random
from collections.abc import Sequence

from simulations.acts import ACTS, Ending
from simulations.scenario import Act, Scenario
from simulations.section import ScenarioError
from simulations.world import World


@dataclasses.dataclass(slots=True, eq=False)
class Episode:
    """One act as it happened: what is true, whatever nodes believe."""

    do: str
    nodes: Sequence[int]
    begin_ns: int
    end_ns: int | None = None
    """None: not yet over."""

    def touches(self, host: int, since_ns: int, until_ns: int) -> bool:
        """Whether it went on for this host at any time between."""
        if host not in self.nodes or self.begin_ns > until_ns:
            return False
        return self.end_ns is None or self.end_ns >= since_ns


class Director:
    """Lets a scenario's acts happen in a world."""

    def __init__(self, world: World, scenario: Scenario, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._scenario = scenario
        self._is_over = False
        self._going_on: dict[Episode, Ending] = {}
        self.episodes: list[Episode] = []
        """What happened, in order."""
        self.groups = scenario.network.regions.members(scenario.nodes)
        """Who was chosen under each name; a region is one from the beginning."""
        self.last_ns = max((a.at_ns + (a.for_ns or 0) for a in scenario.acts), default=0)
        """When the last act begins or ends, after the start."""

    def schedule(self) -> None:
        """From now on, which is the scenario's beginning."""
        for act in self._scenario.acts:
            self._world.at(act.at_ns, functools.partial(self._begin, act))

    def _begin(self, act: Act) -> None:
        if self._is_over:
            return
        nodes = self._chosen(act)
        end = ACTS[act.do].begin(self._world, nodes, act.options)
        episode = Episode(act.do, nodes, self._world.now)
        self.episodes.append(episode)
        if end is None:
            episode.end_ns = self._world.now
            return
        self._going_on[episode] = end
        if act.for_ns is not None:
            self._world.at(act.for_ns, functools.partial(self._end, episode))

    def _end(self, episode: Episode) -> None:
        end = self._going_on.pop(episode, None)
        if end is not None:
            episode.end_ns = self._world.now
            end()

    def end_all(self) -> None:
        """Every act that still goes on ends now; who is down stays down."""
        self._is_over = True
        for episode in tuple(self._going_on):
            self._end(episode)

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
    made.update(scenario.inference.group_names if scenario.inference else ())
    for act in scenario.acts:
        for name in (act.who.among, *act.who.but):
            if name and name not in made:
                raise ScenarioError(f"{scenario.name}: no act makes a group {name!r}")
        if act.for_ns is not None and not ACTS[act.do].has_end:
            raise ScenarioError(f"{scenario.name}: {act.do} has no end, so no for_s")
        if act.at_ns > scenario.duration_ns:
            raise ScenarioError(f"{scenario.name}: {act.do} comes after the end; see duration_s")
        if act.who.nodes and min(act.who.nodes) < 0:
            raise ScenarioError(f"{scenario.name}: node {min(act.who.nodes)}; they count from 0")
        if act.who.nodes and max(act.who.nodes) >= scenario.nodes:
            raise ScenarioError(
                f"{scenario.name}: node {max(act.who.nodes)} of {scenario.nodes}; they count from 0"
            )
