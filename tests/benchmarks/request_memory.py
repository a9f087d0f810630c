"""Whether daemons that serve many requests over two hops keep anything of them."""

import contextlib
import dataclasses
import http.client
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import psutil

from tests.benchmarks.request_servers import MODEL, STREAMS, TIMEOUT_S, ask
from tests.helpers.daemons import Daemons

WARM_UP: Final = 2_000
"""Whatever is loaded on first use. What is kept by design is whole after these and a few thousand
more: the stories of the last 1,000 requests (`meshd explain`), who answered the last 4,096
conversations, a thousand deadlines that are over (trio's). Usage goes to disk."""
LOOK_EVERY: Final = 1_000
REQUESTS_MIN: Final = 3 * LOOK_EVERY
TOLD_EVERY: Final = 10_000
TOKENS: Final = 2
MIB: Final = 2**20
SLOPE_MAX_MIB: Final = 0.2
"""Flat: RSS grows by no more for each TOLD_EVERY requests, by least squares over the last two
thirds. (USS, which is printed too, changes when another process maps the same model.)"""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """One whose memory is looked at, and what was seen."""

    name: str
    process: psutil.Process
    seen: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    """Requests so far, RSS and USS in bytes."""

    def look(self, requests: int) -> None:
        """Note what it has now, after so many."""
        memory = self.process.memory_full_info()
        self.seen.append((requests, memory.rss, memory.uss))

    def told(self) -> str:
        """The latest RSS and USS."""
        _, rss, uss = self.seen[-1]
        return f"{rss / MIB:10.2f}{uss / MIB:9.2f}"

    @property
    def slope_mib(self) -> float:
        """Growth of RSS for each TOLD_EVERY requests, over the last two thirds."""
        last = self.seen[len(self.seen) // 3 :]
        requests, rss, _ = zip(*last, strict=True)
        return statistics.linear_regression(requests, rss).slope * TOLD_EVERY / MIB


def is_flat(folder: pathlib.Path, requests: int) -> bool:
    """Ask so often, print what is seen, and say whether nothing grows."""
    with Daemons(folder) as daemons:
        back, front = daemons.mesh({"back": MODEL, "front": "none"})
        (worker,) = psutil.Process(back.process.pid).children()
        processes = [
            Process("front", psutil.Process(front.process.pid)),
            Process("back", psutil.Process(back.process.pid)),
            Process("back's worker", worker),
        ]
        port = int(front.url.rpartition(":")[2])
        numbers = itertools.count()
        _ask(port, WARM_UP, numbers)
        print("MiB RSS and USS after".ljust(24), *(f"{each.name:>19}" for each in processes))
        _look(processes, 0)
        for done in range(LOOK_EVERY, requests + 1, LOOK_EVERY):
            _ask(port, LOOK_EVERY, numbers)
            _look(processes, done)
    print(
        f"by {TOLD_EVERY:,} requests".ljust(24), *(f"{each.slope_mib:19.3f}" for each in processes)
    )
    return all(each.slope_mib <= SLOPE_MAX_MIB for each in processes)


def _look(processes: Sequence[Process], requests: int) -> None:
    for each in processes:
        each.look(requests)
    if requests % TOLD_EVERY == 0:
        print(f"{requests:,} requests".ljust(24), *(each.told() for each in processes), flush=True)


def _ask(port: int, requests: int, numbers: "itertools.count[int]") -> None:
    """So many requests in STREAMS streams, none with a prompt that has been before."""

    def work(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            for _ in range(count):
                ask(connection, f"Say something about number {next(numbers)}.", TOKENS)

    with ThreadPoolExecutor(STREAMS) as threads:
        list(threads.map(work, [requests // STREAMS] * STREAMS))  # raises what they raise
