"""Members that leave in order, in virtual time: does anybody ever call one of them dead.

Each run is a mesh with some loss; a tenth of its members say goodbye at random times within ten
seconds, and everybody else is listened to for a minute. Prints the runs with any death, of a
leaver or of anybody else, and how long it took until all that stay had heard of each goodbye.

Run: python -m tests.benchmarks.goodbyes [--seeds 1000] [--nodes 50] [--loss 1] [--processes 2]
"""

import argparse
import dataclasses
import functools
import multiprocessing
import random
from collections.abc import Sequence
from typing import Final

from protocol.config import SECOND
from protocol.members import State
from simulations.network import NetworkOptions
from simulations.pretend_crypto import PretendCrypto
from simulations.run import without_collections
from simulations.world import World

WITHIN_NS: Final = 10 * SECOND
AFTER_NS: Final = 60 * SECOND


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run showed."""

    seed: int
    dead_leavers: list[int]
    other_deaths: int
    known_s: list[float]
    """For each goodbye, until the last who stays said left."""
    unknown: int
    """Goodbyes that somebody who stays never heard of."""


@without_collections()
def run_once(seed: int, *, nodes: int, loss_percent: int) -> Outcome:
    """One mesh, and a tenth of it leaves."""
    rng = random.Random(f"goodbyes {seed}")
    options = NetworkOptions(loss_ppm=loss_percent * 10_000)
    world = World(nodes, seed, network=options, make_crypto=PretendCrypto)
    for index in range(nodes):
        world.start(index, *[0][:index])
    world.run_until(world.is_converged, 60 * SECOND)
    world.run(5 * SECOND)
    leavers = rng.sample(range(nodes), max(1, nodes // 10))
    times = {leaver: world.now + rng.randrange(WITHIN_NS) for leaver in leavers}
    for leaver in leavers:
        world.at(times[leaver] - world.now, functools.partial(world.leave, leaver))
    world.run(WITHIN_NS + AFTER_NS)

    heard: dict[int, dict[int, int]] = {leaver: {} for leaver in leavers}
    dead = dict.fromkeys(
        world.host_of(change.node).index
        for _, _, change in world.changes
        if change.state is State.DEAD
    )
    for at, observer, change in world.changes:
        subject = world.host_of(change.node).index
        if change.state is State.LEFT and subject in heard and observer not in heard:
            heard[subject].setdefault(observer, at)
    staying = nodes - len(leavers)
    return Outcome(
        seed=seed,
        dead_leavers=[leaver for leaver in leavers if leaver in dead],
        other_deaths=sum(subject not in heard for subject in dead),
        known_s=[
            (max(heard[leaver].values()) - times[leaver]) / SECOND
            for leaver in leavers
            if len(heard[leaver]) == staying
        ],
        unknown=sum(len(heard[leaver]) < staying for leaver in leavers),
    )


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """All runs in a few lines."""
    known = sorted(time_s for outcome in outcomes for time_s in outcome.known_s)
    deaths = [outcome.seed for outcome in outcomes if outcome.dead_leavers]
    others = [outcome.seed for outcome in outcomes if outcome.other_deaths]
    print(f"{len(outcomes)} runs, {len(known)} goodbyes known to all who stay")
    if known:
        p99 = known[len(known) * 99 // 100]
        print(f"known to all after: p50 {known[len(known) // 2]:.2f} s, p99 {p99:.2f} s, ", end="")
        print(f"most {known[-1]:.2f} s")
    print(f"goodbyes not known to all: {sum(outcome.unknown for outcome in outcomes)}")
    print(f"runs in which a leaver was called dead: {len(deaths)} {deaths[:20]}")
    print(f"runs in which anybody else was called dead: {len(others)} {others[:20]}")


def main() -> None:
    """Run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--loss", type=int, default=1, help="percent")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    one = functools.partial(run_once, nodes=chosen.nodes, loss_percent=chosen.loss)
    with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
        print_summary(list(pool.imap(one, range(chosen.seeds))))


if __name__ == "__main__":
    main()
