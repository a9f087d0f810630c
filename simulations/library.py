"""The one place for finding a scenario: by its name in `scenarios/`, as a file, or as its content.

Whatever comes from here was read and checked as a whole.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Final

from simulations.acts import READERS
from simulations.director import check_groups
from simulations.inference.table import check_workload, read_workload
from simulations.scenario import NODES_MAX, Scenario, read_scenario, scenario_of
from simulations.section import ScenarioError, nearest

LIBRARY: Final = pathlib.Path(__file__).parent / "scenarios"


def library() -> dict[str, pathlib.Path]:
    """The scenarios that ship, by name."""
    return {path.stem: path for path in sorted(LIBRARY.glob("*.toml"))}


def path_of(named: str) -> pathlib.Path:
    """The file of a scenario of the library, or a file. Raises ScenarioError."""
    path = library().get(named)
    if path is None:
        path = pathlib.Path(named)
        if not path.exists() and path.suffix != ".toml":
            raise ScenarioError(f"no scenario {named!r}{nearest(named, library())}")
    return path


def find_scenario(named: str) -> Scenario:
    """A scenario of the library by its name, or a file. Raises ScenarioError."""
    return _checked(read_scenario(path_of(named), READERS, read_workload))


def scenario_from(content: Mapping[str, Any], path: pathlib.Path) -> Scenario:
    """A scenario from what its file would hold; `path` names it, and where files that it names
    are. Raises ScenarioError.
    """
    return _checked(scenario_of(content, path, READERS, read_workload))


def resized(scenario: Scenario, nodes: int) -> Scenario:
    """The same with another number of nodes. Raises ScenarioError if an act names one too many, or
    the workload does not fit.
    """
    if not 2 <= nodes <= NODES_MAX:
        raise ScenarioError(f"{nodes} nodes are not in 2 to {NODES_MAX}")
    content = {**scenario.content, "nodes": nodes}
    return _checked(dataclasses.replace(scenario, nodes=nodes, content=content))


def _checked(scenario: Scenario) -> Scenario:
    check_groups(scenario)
    if scenario.inference is not None:
        check_workload(scenario.name, scenario.inference, scenario.nodes, scenario.duration_ns)
    return scenario
