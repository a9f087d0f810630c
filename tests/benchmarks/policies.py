"""Who should run a request: policies side by side, in virtual time, on real gossip.

Each cell is one policy under one kind of arrivals at one offered load; each seed gives every policy
the same requests on the same mesh: the classes, lengths and shares of the scenario
`inference_poisson`. Prints the median over seeds of every figure.

Run: python -m tests.benchmarks.policies [--nodes 40] [--seeds 3] [--seconds 90]
       [--policies NAME ...] [--arrivals poisson bursty diurnal] [--loads 0.5 0.8 0.95]
       [--load-age LOW HIGH] [--processes 2] [--json FILE]
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

Cell = tuple[str, str, float]
"""(policy, arrivals, offered load)."""
ARRIVALS: Final[Mapping[str, Arrivals]] = {
    "poisson": Poisson(),
    "bursty": Bursty(burst_ns=5 * SECOND, quiet_ns=15 * SECOND, factor_ppm=2 * MILLION),
    "diurnal": Diurnal(period_ns=60 * SECOND),
}
LOADS: Final = (0.5, 0.8, 0.95)
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
    ("done p50", "completion_p50_s", 2),
    ("p95", "completion_p95_s", 2),
    ("p99", "completion_p99_s", 2),
    ("tokens/s", "tokens_per_s", 0),
    ("refused", "refusals", 0),
    ("failed", "requests_failed", 0),
    ("in flight", "requests_in_flight", 0),
    ("Jain", "fairness_tokens", 3),
    ("4090", "utilisation_rtx4090", 2),
    ("4060", "utilisation_rtx4060", 2),
    ("cpu", "utilisation_cpu", 2),
    ("age p50", "load_age_p50_s", 1),
    ("p99", "load_age_p99_s", 1),
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


def summary(results: Sequence[Result]) -> dict[str, float]:
    """The median over seeds of each measure that was there in all."""
    rows = [result.measures for result in results]
    medians: dict[str, float] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        if len(values) == len(rows):
            medians[name] = statistics.median(values)
    return medians


def print_table(cells: Mapping[Cell, Sequence[Result]]) -> None:
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
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
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
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    work = list(itertools.product(cells, seeds))
    age = chosen.load_age
    size = Size(
        nodes=chosen.nodes,
        lasts_s=chosen.seconds,
        gateway_share=chosen.gateways,
        load_age_s=(age[0], age[1]) if age else None,
    )
    found: dict[Cell, list[Result]] = {cell: [] for cell in cells}
    try:
        with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
            one = functools.partial(run_cell, size=size)
            for (cell, _), result in zip(work, pool.imap(one, work), strict=True):
                found[cell].append(result)
    except ScenarioError as error:
        sys.exit(str(error))
    how = f"told {age[0]:g} to {age[1]:g} s late" if age else "as gossip told"
    print(f"{size.nodes} nodes, {len(seeds)} seeds, {size.lasts_s:g} s; loads {how}")
    print_table(found)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(_as_json(found), indent=1) + "\n", "utf-8")


def _as_json(cells: Mapping[Cell, Sequence[Result]]) -> list[dict[str, Any]]:
    return [
        {"policy": policy, "arrivals": arrivals, "load": load, **result.to_json()}
        for (policy, arrivals, load), results in cells.items()
        for result in results
    ]


if __name__ == "__main__":
    main()
