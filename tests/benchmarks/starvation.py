"""Members that are slow, in virtual time: does anybody die who lives, and how soon is a death seen.

The model of the Lifeguard paper as kinship's published grid runs it, so that figures can be
compared: some members read every message 0.5 to 2.5 s late, in order, while their timers fire on
time; datagrams are lost at random; all start together; at 60 of 120 s one healthy member crashes,
silently, and its machine with it. Everything is `protocol/` as shipped, in `simulations/world.py`.

A false death is a running member that at least one node declares dead, counted once per member and
incarnation; false suspicions likewise. Detection is from the crash until each healthy node says
dead. Keys are pretended (same lengths, no cost) unless `--crypto sodium`.

`--swim` runs the same code with everything switched off that came after SWIM (see SWIM), and
`--node module:Class` another protocol.

Run: python -m tests.benchmarks.starvation [--seeds 200] [--grid kinship] [--cells 50:3:5 ...]
     [--swim | --node simulations.plain_swim:PlainSwim] [--crash silent|refused]
     [--crypto pretend|sodium] [--why] [--processes 2] [--json FILE]
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from protocol.config import SECOND, ProtocolConfig
from protocol.crypto import Crypto, SodiumCrypto
from protocol.members import State
from simulations.bench import LATE_NS
from simulations.latency import even
from simulations.network import NetworkOptions
from simulations.other_protocols import find_node
from simulations.pretend_crypto import PretendCrypto
from simulations.run import without_collections
from simulations.world import World

STARVED_NS: Final = 10 * SECOND
"""When the mesh has formed, some become slow."""
CRASH_NS: Final = 60 * SECOND
RUN_NS: Final = 120 * SECOND
DELAY_NS: Final = (200_000, 800_000)
"""One way: half a millisecond on average, as on a LAN."""
CRYPTOS: Final[dict[str, Callable[[bytes], Crypto]]] = {
    "pretend": PretendCrypto,
    "sodium": SodiumCrypto,
}

SWIM: Final = ProtocolConfig(
    nacks=False,
    health_score_max=0,
    buddy=False,
    digests=False,
    suspicion_mult=4,
    suspicion_scale_min_milli=1_000,
    suspicion_max_mult=1,
    suspicion_confirmations=0,
    suspicion_refused_mult=4,
    last_call_ns=0,
)
"""What memberlist was before Lifeguard, and kinship's column "SWIM": a suspicion lasts
4 * log10(N) intervals whatever happens; a stream as fallback and push/pull stay."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One setting of the grid."""

    nodes: int
    starved: int
    loss_percent: int

    def __str__(self) -> str:
        """As `of` reads it."""
        return f"{self.nodes}:{self.starved}:{self.loss_percent}"

    @classmethod
    def of(cls, text: str) -> "Cell":
        """From `NODES:STARVED:LOSS`, loss in percent."""
        nodes, starved, loss = map(int, text.split(":"))
        if not (0 <= starved < nodes - 1 and 0 <= loss < 100):
            raise ValueError(text)
        return cls(nodes, starved, loss)


def _cells(sizes: Sequence[int], losses: Sequence[int]) -> list[Cell]:
    shares = (0.01, 0.05, 0.10)
    return [
        Cell(nodes, max(1, int(nodes * share + 0.5)), loss)
        for nodes in sizes
        for share in shares
        for loss in losses
    ]


GRIDS: Final = {
    "kinship": _cells((50, 200), (1, 3, 5)),
    "fifty": _cells((50,), (0, 1, 2, 3, 5, 10)),
    "nine": _cells((50,), (1, 3, 5)),
    "loss": [Cell(50, 0, loss) for loss in (0, 1, 3, 5, 10)],
}
"""kinship: its 18 cells with starved members (1, 5 and 10 % of 50 and of 200 nodes, 1, 3 and 5 %
loss). nine: those of 50 nodes. fifty: 18 cells of 50 nodes, the nine among them. loss: nobody is
starved, for the detection times of a healthy mesh."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run showed."""

    cell: Cell
    seed: int
    healthy_deaths: int
    starved_deaths: int
    false_suspicions: int
    detections_s: list[float]
    undetected: int
    datagrams: int
    cpu_s: float
    trace: str
    stories: list[str]
    """Each false death: whose, and how it came."""

    @property
    def has_false_death(self) -> bool:
        """Whether anybody who ran was declared dead by anybody."""
        return self.healthy_deaths + self.starved_deaths > 0


@without_collections()
def run_once(
    job: tuple[Cell, int],
    *,
    crypto: str,
    crash: str,
    protocol: ProtocolConfig | None = None,
    node: str | None = None,
) -> Outcome:
    """One seed of one cell; `node`: as `--node`."""
    cell, seed = job
    began = time.process_time()
    order = list(range(cell.nodes))
    random.Random(f"starved {seed}").shuffle(order)
    starved, crashed = sorted(order[: cell.starved]), order[cell.starved]
    low, high = DELAY_NS
    options = NetworkOptions(delay=even(low, high), loss_ppm=cell.loss_percent * 10_000)
    world = World(
        cell.nodes,
        seed,
        network=options,
        protocol=protocol,
        make_crypto=CRYPTOS[crypto],
        make_node=find_node(node) if node is not None else None,
    )
    for index in range(cell.nodes):
        world.start(index, *[0][:index])
    world.run(STARVED_NS)
    for index in starved:
        world.starve(index, *LATE_NS)
    world.run(CRASH_NS - STARVED_NS)
    world.crash(crashed, is_silent=crash == "silent")
    world.run(RUN_NS - CRASH_NS)
    return _outcome(world, cell, seed, starved, crashed, time.process_time() - began)


def _outcome(
    world: World, cell: Cell, seed: int, starved: list[int], crashed: int, cpu_s: float
) -> Outcome:
    deaths: set[tuple[int, int]] = set()
    suspicions: set[tuple[int, int]] = set()
    detected: dict[int, int] = {}
    for at, observer, change in world.changes:
        subject = world.host_of(change.node).index
        is_running = subject != crashed or at < CRASH_NS
        if change.state is State.SUSPECT and is_running:
            suspicions.add((subject, change.incarnation))
        elif change.state is State.DEAD and is_running:
            deaths.add((subject, change.incarnation))
        elif change.state is State.DEAD:
            detected.setdefault(observer, at - CRASH_NS)
    healthy = [i for i in range(cell.nodes) if i != crashed and i not in starved]
    return Outcome(
        cell=cell,
        seed=seed,
        healthy_deaths=sum(subject not in starved for subject, _ in deaths),
        starved_deaths=sum(subject in starved for subject, _ in deaths),
        false_suspicions=len(suspicions),
        detections_s=[detected[i] / SECOND for i in healthy if i in detected],
        undetected=sum(i not in detected for i in healthy),
        datagrams=world.datagrams,
        cpu_s=cpu_s,
        trace=world.trace_hash,
        stories=[
            f"{cell} seed {seed}: {_story(world, subject, incarnation, subject in starved)}"
            for subject, incarnation in sorted(deaths)
        ],
    )


def _story(world: World, subject: int, incarnation: int, is_starved: bool) -> str:
    """When one number of one member was suspected and called dead, and by how many."""
    node = world.hosts[subject].crypto.node_id
    told = [
        (at, observer, change.state)
        for at, observer, change in world.changes
        if change.node == node and change.incarnation == incarnation
    ]
    parts = [f"n{subject} ({'starved' if is_starved else 'healthy'}) at {incarnation}"]
    for state in (State.ALIVE, State.SUSPECT, State.DEAD):
        times = [(at, observer) for at, observer, seen in told if seen is state]
        if times:
            (first, who), (last, _) = times[0], times[-1]
            span = f"{first / SECOND:.2f} to {last / SECOND:.2f} s"
            parts.append(f"{state} {span}, first n{who}, {len(times)}x")
    later = [
        at
        for at, _, change in world.changes
        if change.node == node and change.incarnation > incarnation
    ]
    if later:
        parts.append(f"refuted {later[0] / SECOND:.2f} s")
    return "; ".join(parts)


# ---- sums ----


def summary(cell: Cell, runs: Sequence[Outcome]) -> dict[str, Any]:
    """One cell's figures."""
    times = sorted(time_s for run in runs for time_s in run.detections_s)
    lasts = sorted(max(run.detections_s) for run in runs if run.detections_s)
    count = len(runs)
    node_seconds = cell.nodes * RUN_NS / SECOND
    return {
        **dataclasses.asdict(cell),
        "runs": count,
        "runs_with_false_death": sum(run.has_false_death for run in runs),
        "seeds_with_false_death": [run.seed for run in runs if run.has_false_death],
        "healthy_deaths": sum(run.healthy_deaths for run in runs),
        "starved_deaths": sum(run.starved_deaths for run in runs),
        "false_suspicions_per_run": round(sum(run.false_suspicions for run in runs) / count, 2),
        "detection_p50_s": _percentile(times, 50),
        "detection_p99_s": _percentile(times, 99),
        "last_detection_p50_s": _percentile(lasts, 50),
        "last_detection_max_s": round(lasts[-1], 3) if lasts else None,
        "undetected": sum(run.undetected for run in runs),
        "datagrams_per_node_s": round(sum(run.datagrams for run in runs) / count / node_seconds, 3),
        "node_seconds_per_cpu_s": round(count * node_seconds / sum(run.cpu_s for run in runs)),
        "false_deaths": [story for run in runs for story in run.stories],
        "first_seed": runs[0].seed,
        "trace_of_first_seed": runs[0].trace,
    }


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)], 3)


HEAD: Final = (
    f"{'nodes':>5} {'starved':>7} {'loss':>5} | {'runs':>5} {'false':>6} {'share':>6} "
    f"{'healthy':>7} {'starved':>7} {'suspic.':>8} | {'p50 s':>7} {'p99 s':>7} {'last':>7} "
    f"{'unseen':>6} | {'dgram/ns':>8} {'ns/cpu-s':>8}"
)


def line(row: dict[str, Any]) -> str:
    """One cell as a line of the table."""
    share = row["runs_with_false_death"] / row["runs"]

    def seconds(key: str) -> str:
        return "-" if row[key] is None else f"{row[key]:.2f}"

    return (
        f"{row['nodes']:>5} {row['starved']:>7} {row['loss_percent']:>4}% | {row['runs']:>5} "
        f"{row['runs_with_false_death']:>6} {share:>6.1%} {row['healthy_deaths']:>7} "
        f"{row['starved_deaths']:>7} {row['false_suspicions_per_run']:>8.2f} | "
        f"{seconds('detection_p50_s'):>7} {seconds('detection_p99_s'):>7} "
        f"{seconds('last_detection_max_s'):>7} {row['undetected']:>6} | "
        f"{row['datagrams_per_node_s']:>8.2f} {row['node_seconds_per_cpu_s']:>8}"
    )


def outcomes(
    cells: Sequence[Cell], seeds: range, processes: int, one: Callable[[tuple[Cell, int]], Outcome]
) -> Iterator[Outcome]:
    """Every seed of every cell, in order."""
    jobs = [(cell, seed) for cell in cells for seed in seeds]
    if processes == 1:
        yield from map(one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(one, jobs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200, help="runs of each cell")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--grid", choices=sorted(GRIDS), default="kinship")
    parser.add_argument(
        "--cells", nargs="+", type=Cell.of, metavar="NODES:STARVED:LOSS", help="in place of a grid"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--swim", action="store_true", help="without all that came after SWIM")
    which.add_argument("--node", metavar="MODULE:CLASS", help="another protocol")
    parser.add_argument("--crash", choices=("silent", "refused"), default="silent")
    parser.add_argument("--crypto", choices=sorted(CRYPTOS), default="pretend")
    parser.add_argument("--why", action="store_true", help="how each false death came")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Run the grid and print a line as each cell ends."""
    chosen = _arguments()
    cells: list[Cell] = chosen.cells or GRIDS[chosen.grid]
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    one = functools.partial(
        run_once,
        crypto=chosen.crypto,
        crash=chosen.crash,
        protocol=SWIM if chosen.swim else None,
        node=chosen.node,
    )
    print(HEAD, flush=True)
    rows: list[dict[str, Any]] = []
    collected: list[Outcome] = []
    for outcome in outcomes(cells, seeds, chosen.processes, one):
        collected.append(outcome)
        if len(collected) == len(seeds):
            rows.append(summary(outcome.cell, collected))
            print(line(rows[-1]), flush=True)
            if chosen.why:
                print("\n".join(rows[-1]["false_deaths"]), flush=True)
            collected = []
            if chosen.json is not None:
                report = {"command": sys.argv[1:], "crash": chosen.crash, "cells": rows}
                chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    false, runs = (sum(row[key] for row in rows) for key in ("runs_with_false_death", "runs"))
    print(f"runs with a false death: {false} of {runs} ({false / runs:.1%})")


if __name__ == "__main__":
    main()
