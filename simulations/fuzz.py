"""The one place for looking for what breaks the protocol: many seeds, each a world of its own.

A seed decides the scenario (`swarm.py`) and the run. What it violates is made short
(`shrinking.py`) and becomes a scenario file that anybody can repeat.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, Final

import tomli_w

from simulations.library import scenario_from
from simulations.run import run
from simulations.section import ScenarioError
from simulations.shrinking import TRIES_MAX, shrink
from simulations.swarm import Content, Swarm
from simulations.workers import local, spread

_FILE: Final = pathlib.Path("fuzz.toml")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A seed, and what it violated: nothing, most of the time."""

    seed: int
    nodes: int
    violations: tuple[str, ...]
    content: Content | None = None
    """The shortest scenario found that violates the same; with `seed` it repeats it."""

    def to_json(self) -> dict[str, Any]:
        """As `meshd sim fuzz --json` prints it."""
        return dataclasses.asdict(self)

    def as_toml(self) -> str:
        """A scenario file."""
        title = f"found by fuzzing, seed {self.seed}: {self.violations[0].split(':')[0]}"
        return tomli_w.dumps({"title": title, **(self.content or {})})


def fuzz(
    first: int, count: int, *, nodes: int | None = None, processes: int | None = None
) -> Iterator[Finding]:
    """Every seed's finding, as they come. Uses all cores unless told how many processes."""
    seeds = range(first, first + count)
    look = functools.partial(examine, nodes=nodes)
    if processes == 1 or count == 1:
        yield from map(look, seeds)
        return
    with local(processes) as workers:
        yield from spread(workers, look, seeds)


def examine(seed: int, nodes: int | None = None, tries_max: int = TRIES_MAX) -> Finding:
    """One seed: draw, run, and make short what failed."""
    content = Swarm(seed, nodes).content()
    violations = violations_of(content, seed)
    if not violations:
        return Finding(seed=seed, nodes=content["nodes"], violations=())
    kind = violations[0].split(":")[0]

    def still_fails(candidate: Content) -> bool:
        return any(line.startswith(f"{kind}:") for line in violations_of(candidate, seed))

    shortest = shrink(content, still_fails, tries_max)
    return Finding(seed=seed, nodes=content["nodes"], violations=violations, content=shortest)


def violations_of(content: Content, seed: int) -> tuple[str, ...]:
    """What a scenario violates; what keeps it from going on is a violation too."""
    try:
        result = run(scenario_from(content, _FILE), seed, is_checked=True)
    except ScenarioError as error:
        return (f"stopped: {error}",)
    except Exception as error:  # noqa: BLE001  # whatever the core raises is what we look for
        return (f"exception: {type(error).__name__}: {error}",)
    return result.violations or ()


def save(finding: Finding, folder: pathlib.Path) -> pathlib.Path:
    """Write the scenario file of a finding. Raises OSError."""
    path = folder / f"fuzz-{finding.seed}.toml"
    path.write_text(finding.as_toml(), "utf-8")
    return path
