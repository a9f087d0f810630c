"""Who should run a request: policies side by side, in virtual time, on real gossip.

Each cell is one policy under one kind of arrivals at one offered load; each seed gives every policy
the same requests on the same mesh: the classes, lengths and shares of the scenario
`inference_poisson`. Prints the median over seeds of every figure; `done` is that of all requests,
those that failed or are in flight at the end among them, as long as they took at least. With
`--load-age` all know each other from the beginning, and gossip rests: it tells nothing then that is
measured.

Run: python -m tests.benchmarks.policies [--nodes 40] [--seeds 3] [--seconds 90]
       [--policies NAME ...] [--arrivals poisson bursty diurnal] [--loads 0.5 0.8 0.95]
       [--load-age LOW HIGH] [--processes 2] [--rows FILE]
"""

import argparse
import dataclasses
import functools
import itertools
import json
import multiprocessing
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.config import SECOND, ProtocolConfig
from simulations.inference.arrivals import MILLION, Arrivals, Bursty, Diurnal, Poisson
from simulations.inference.policies import POLICIES
from simulations.library import find_scenario, resized
from simulations.run import Result, run
from simulations.section import ScenarioError

Measures = Mapping[str, Any]
Cell = tuple[str, str, float]
"""(policy, arrivals, offered load)."""
ARRIVALS: Final[Mapping[str, Arrivals]] = {
    "poisson": Poisson(),
    "bursty": Bursty(burst_ns=5 * SECOND, quiet_ns=15 * SECOND, factor_ppm=2 * MILLION),
    "diurnal": Diurnal(period_ns=60 * SECOND),
}
LOADS: Final = (0.5, 0.8, 0.95)
DEFAULT: Final = "meshd"
FACTORS: Final[Mapping[str, float]] = {"round_robin": 2.0, "least_loaded": 1.2}
"""By so much the default's p99 is to be better, at 80 %."""
SWING_MAX: Final = 0.25
"""Requests per slot (`simulations/inference/herding.py`): a quarter of a machine's work."""
DRAIN_NS: Final = 60 * SECOND
"""Time for what came last to be completed."""
QUIET: Final = ProtocolConfig(
    probe_interval_ns=86_400 * SECOND,
    push_pull_interval_ns=86_400 * SECOND,
    reconnect_interval_ns=86_400 * SECOND,
)
"""Where loads are known by a fixed delay, gossip tells nothing that is measured; nobody dies."""
_FIGURES: Final = (
    ("ttft p50", "first_token_p50_s", 2),
    ("p95", "first_token_p95_s", 2),
    ("p99", "first_token_p99_s", 2),
    ("done p50", "overall_p50_s", 2),
    ("p95", "overall_p95_s", 2),
    ("p99", "overall_p99_s", 2),
    ("tokens/s", "tokens_per_s", 0),
    ("refused", "refusals", 0),
    ("failed", "requests_failed", 0),
    ("in flight", "requests_in_flight", 0),
    ("Jain", "fairness_tokens", 3),
    ("4090", "utilisation_rtx4090", 2),
    ("4060", "utilisation_rtx4060", 2),
    ("cpu", "utilisation_cpu", 2),
    ("age p50", "load_age_p50_s", 1),
    ("swing", "herding_swing", 2),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What all cells have in common."""

    nodes: int
    lasts_s: float
    gateway_share: float
    load_age_s: tuple[float, float] | None


def run_cell(work: tuple[Cell, int], *, size: Size) -> Result:
    """One policy, one kind of arrivals, one load, one seed. Raises ScenarioError."""
    (policy, arrivals, load), seed = work
    known = find_scenario("inference_poisson")
    assert known.inference is not None
    lasts_ns = round(size.lasts_s * SECOND)
    gateways = max(1, round(size.nodes * size.gateway_share))
    workload = dataclasses.replace(
        known.inference,
        policy=policy,
        arrivals=ARRIVALS[arrivals],
        load_ppm=round(load * MILLION),
        gateways=gateways,
        users=5 * gateways,
        lasts_ns=lasts_ns,
        told_ns=size.load_age_s
        and (round(size.load_age_s[0] * SECOND), round(size.load_age_s[1] * SECOND)),
    )
    scenario = dataclasses.replace(known, inference=workload, duration_ns=lasts_ns + DRAIN_NS)
    if size.load_age_s is not None:
        scenario = dataclasses.replace(scenario, form="at_once", protocol=QUIET)
    return run(resized(scenario, size.nodes), seed)


class Rows:
    """What has been run so far, in a file if one is named."""

    def __init__(self, path: pathlib.Path | None, size: Size) -> None:
        self._path = path
        self._size = json.loads(json.dumps(dataclasses.asdict(size)))
        self.found: dict[tuple[Cell, int], Measures] = {}
        lines = path.read_text("utf-8").splitlines() if path is not None and path.exists() else []
        for line in lines:
            row = json.loads(line)
            if row["size"] == self._size:
                cell = row["policy"], row["arrivals"], row["load"]
                self.found[cell, row["seed"]] = row["measures"]

    def add(self, work: tuple[Cell, int], result: Result) -> None:
        """One more."""
        self.found[work] = result.measures
        if self._path is None:
            return
        (policy, arrivals, load), seed = work
        row = {
            "policy": policy,
            "arrivals": arrivals,
            "load": load,
            "seed": seed,
            "size": self._size,
            "measures": result.measures,
            "commit": result.commit,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def summary(rows: Sequence[Measures]) -> dict[str, float]:
    """The median over seeds of each measure that was there in all."""
    medians: dict[str, float] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        if len(values) == len(rows):
            medians[name] = statistics.median(values)
    return medians


def print_table(cells: Mapping[Cell, Sequence[Measures]]) -> None:
    """A block for each kind of arrivals and load, a line for each policy."""
    names = [f"{title:>9}" for title, _, _ in _FIGURES]
    for arrivals, load in dict.fromkeys((cell[1], cell[2]) for cell in cells):
        print(f"\n{arrivals} arrivals, {load:.0%} of capacity (times in seconds)")
        print(f"{'policy':20}" + "".join(names))
        for (policy, *of), results in cells.items():
            if of != [arrivals, load]:
                continue
            medians = summary(results)
            print(f"{policy:20}", end="")
            for _, name, digits in _FIGURES:
                value = medians.get(name)
                print(f"{'never' if value is None else f'{value:.{digits}f}':>9}", end="")
            print()


def print_verdicts(cells: Mapping[Cell, Sequence[Measures]]) -> None:
    """What the default is held to at 80 %, as far as it was run: pass or miss."""
    print()
    for arrivals in dict.fromkeys(cell[1] for cell in cells):
        default = cells.get((DEFAULT, arrivals, 0.8))
        for policy, factor in FACTORS.items():
            other = cells.get((policy, arrivals, 0.8))
            if default is None or other is None:
                continue
            ratio = summary(other)["overall_p99_s"] / summary(default)["overall_p99_s"]
            print(
                f"{arrivals}, 80 %: p99 of {policy} over that of {DEFAULT}: {ratio:.1f}, "
                f"at least {factor:g}: {'pass' if ratio >= factor else 'miss'}"
            )
    swings = [
        swing
        for (policy, _, _), rows in cells.items()
        if policy == DEFAULT and (swing := summary(rows).get("herding_swing")) is not None
    ]
    if swings:
        verdict = "pass" if max(swings) <= SWING_MAX else "miss"
        print(f"swing of {DEFAULT}, all cells: {max(swings):.3f}, at most {SWING_MAX:g}: {verdict}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=90, help="in which requests come")
    parser.add_argument("--gateways", type=float, default=0.2, help="share of nodes that apps ask")
    parser.add_argument("--policies", nargs="+", choices=sorted(POLICIES), default=list(POLICIES))
    parser.add_argument(
        "--arrivals", nargs="+", choices=list(ARRIVALS), default=["poisson", "bursty"]
    )
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument(
        "--load-age", nargs=2, type=float, metavar=("LOW", "HIGH"), help="in the place of gossip's"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--rows",
        type=pathlib.Path,
        metavar="FILE",
        help="every run as a line of JSON, at once; runs that are in it are not run again",
    )
    return parser.parse_args()


def main() -> None:
    """Run all cells and print them."""
    chosen = _arguments()
    cells: list[Cell] = [
        (policy, arrivals, load)
        for arrivals, load, policy in itertools.product(
            chosen.arrivals, chosen.loads, chosen.policies
        )
    ]
    age = chosen.load_age
    size = Size(
        nodes=chosen.nodes,
        lasts_s=chosen.seconds,
        gateway_share=chosen.gateways,
        load_age_s=(age[0], age[1]) if age else None,
    )
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    # Seed after seed: what was cut off has all cells, with fewer seeds.
    work = [(cell, seed) for seed in seeds for cell in cells]
    rows = Rows(chosen.rows, size)
    lacking = [each for each in work if each not in rows.found]
    try:
        with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
            one = functools.partial(run_cell, size=size)
            for each, result in zip(lacking, pool.imap(one, lacking), strict=True):
                rows.add(each, result)
                (policy, arrivals, load), seed = each
                p99 = result.measures["overall_p99_s"]
                print(f"{policy} {arrivals} {load:g} seed {seed}: p99 {p99} s", flush=True)
    except ScenarioError as error:
        sys.exit(str(error))
    found = {cell: [rows.found[cell, seed] for seed in seeds] for cell in cells}
    how = f"told {age[0]:g} to {age[1]:g} s late" if age else "as gossip told"
    print(f"{size.nodes} nodes, {len(seeds)} seeds, {size.lasts_s:g} s; loads {how}")
    print_table(found)
    print_verdicts(found)


if __name__ == "__main__":
    main()
