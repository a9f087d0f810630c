"""A mesh of garages over a week: does it serve, how fast, and is everybody answered?

A week of 100 nodes is hours of processor time, so it is sampled: a window of each of its seven
days, each at another hour of the day, with the rate of requests of that hour. In every window the
scenario `garage` happens, with another seed: five regions, gossip and churn as they are. A request
whose own node has gone is nobody's: its app was on that machine.

Run: python -m tests.benchmarks.garage [--minutes 10] [--processes 2] [--first-seed 1]
"""

import argparse
import dataclasses
import functools
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from typing import Final

from protocol.config import SECOND
from simulations.inference.arrivals import DAY, MILLION
from simulations.inference.gateway import COMPLETED, GATEWAY_GONE
from simulations.inference.service import Service
from simulations.library import find_scenario
from simulations.run import run
from simulations.scenario import Scenario
from simulations.world import World

DAYS: Final = 7
SHORT_TOKENS: Final = 128
"""A prompt that is called short."""
DRAIN_NS: Final = 60 * SECOND
TOKENS_PER_S: Final = 5_000
NEAR_S: Final = 0.1
FAR_S: Final = 0.5
ANSWERED: Final = 0.999


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one of them showed."""

    hour: int
    requests: int
    """Of nodes that were there for the answer."""
    answered: int
    tokens_per_s: float
    departures: int
    near_s: tuple[float, ...]
    """Time to the first token of short prompts, served by another machine of the same region."""
    far_s: tuple[float, ...]
    """The same from another region."""


def run_window(day: int, *, minutes: float, first_seed: int) -> Window:
    """One of the seven."""
    hour = day * len(DAY) // DAYS
    known = find_scenario("garage")
    assert known.inference is not None
    lasts_ns = round(minutes * 60 * SECOND)
    load_ppm = known.inference.load_ppm * DAY[hour] // MILLION
    scenario = dataclasses.replace(
        known,
        inference=dataclasses.replace(known.inference, load_ppm=load_ppm, lasts_ns=lasts_ns),
        acts=tuple(act for act in known.acts if act.at_ns < lasts_ns),
        duration_ns=lasts_ns + DRAIN_NS,
    )
    found: list[Window] = []
    watch = functools.partial(_look, scenario, hour, found)
    run(scenario, first_seed + day, watch=watch)
    return found[0]


def _look(scenario: Scenario, hour: int, found: list[Window], world: World, start_ns: int) -> None:
    service = world.listener
    assert isinstance(service, Service)
    regions = scenario.network.regions.places(scenario.nodes)
    asked = [each for each in service.requests if each.outcome != GATEWAY_GONE]
    near: list[float] = []
    far: list[float] = []
    for request in asked:
        server, first_ns = request.server, request.first_ns
        if server is None or first_ns is None or server == request.gateway:
            continue
        if request.prompt_tokens <= SHORT_TOKENS and not request.continuations:
            is_near = regions[server] == regions[request.gateway]
            (near if is_near else far).append((first_ns - request.arrived_ns) / SECOND)
    done = [each for each in asked if each.outcome == COMPLETED]
    away = [act for at_ns, _, act in world.history if at_ns >= start_ns and act != "start"]
    found.append(
        Window(
            hour=hour,
            requests=len(asked),
            answered=len(done),
            tokens_per_s=sum(each.output_tokens for each in done) * SECOND / service.until_ns,
            departures=len(away),
            near_s=tuple(near),
            far_s=tuple(far),
        )
    )


def report(windows: Sequence[Window]) -> bool:
    """Print every window, and what the whole is held to; whether all of it is met."""
    for window in windows:
        near, far = statistics.median(window.near_s), statistics.median(window.far_s)
        print(
            f"{window.hour:2} h: {window.answered} of {window.requests} answered, "
            f"{window.tokens_per_s:.0f} tokens/s, {window.departures} departures, first token of "
            f"short prompts p50 {near * 1e3:.0f} ms in the region, {far * 1e3:.0f} ms across"
        )
    tokens = statistics.mean(window.tokens_per_s for window in windows)
    near = statistics.median(each for window in windows for each in window.near_s)
    far = statistics.median(each for window in windows for each in window.far_s)
    share = sum(window.answered for window in windows) / sum(w.requests for w in windows)
    checks = [
        (f"{tokens:.0f} tokens/s in the mean, at least {TOKENS_PER_S}", tokens >= TOKENS_PER_S),
        (f"first token in the region p50 {near * 1e3:.0f} ms, below 100", near < NEAR_S),
        (f"first token across p50 {far * 1e3:.0f} ms, below 500", far < FAR_S),
        (f"{share:.4%} answered, at least 99.9 %", share >= ANSWERED),
    ]
    for words, is_met in checks:
        print(f"{words}: {'pass' if is_met else 'miss'}")
    return all(is_met for _, is_met in checks)


def main() -> None:
    """Run the windows and print what they showed; the exit code says whether all was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10, help="length of each window")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    one = functools.partial(run_window, minutes=chosen.minutes, first_seed=chosen.first_seed)
    with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
        windows = pool.map(one, range(DAYS), chunksize=1)
    sys.exit(0 if report(windows) else 1)


if __name__ == "__main__":
    main()
