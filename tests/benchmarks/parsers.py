"""Fuzzes every parser of bytes from outside: near misses of valid inputs, long ones, and noise.

Each must give a value or raise its typed refusal. Prints for each parser the inputs tried, how many
were taken, the slowest input (processor time; measured again three times, the least counts), the
most memory that one input took (Python's own, of every 64th input and of the slowest), and whatever
else left the parser, with an input that shows it. Exit status 1 when anything did.

Run: python -m tests.benchmarks.parsers [--seconds 60] [--target NAME ...] [--seed 1]
"""

import argparse
import dataclasses
import random
import resource
import sys
import time
import traceback
import tracemalloc
from typing import Final

from tests.helpers.mutations import mutated, random_bytes
from tests.helpers.parsers import Parser, parsers

NOISE_SHARE: Final = 0.15
LOOKED_AT: Final = 64
"""Every so many inputs one runs again with its memory watched."""
SHOWN_BYTES: Final = 120


@dataclasses.dataclass(slots=True)
class Found:
    """What a parser did with all inputs."""

    tried: int = 0
    taken: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    memory_bytes: int = 0
    longest: int = 0
    bugs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """The shortest input for each place from which something else was raised."""


def once(parser: Parser, data: bytes, found: Found) -> float:
    """Parse one input; its seconds."""
    started = time.process_time()
    try:
        parser.parse(data)
        found.taken += 1
    except parser.refusals:
        pass
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what we look for
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"[:300]
        if what not in found.bugs or len(data) < len(found.bugs[what]):
            found.bugs[what] = data
    return time.process_time() - started


def memory_of(parser: Parser, data: bytes, found: Found) -> int:
    """The most that Python had allocated while this was parsed, beyond what it had before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        once(parser, data, dataclasses.replace(found))
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def fuzz(parser: Parser, seconds: float, rng: random.Random) -> Found:
    """Try inputs for so long."""
    found = Found()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        is_noise = rng.random() < NOISE_SHARE
        data = random_bytes(rng, parser) if is_noise else mutated(rng, parser, may_be_long=True)
        found.tried += 1
        found.longest = max(found.longest, len(data))
        took_s = once(parser, data, found)
        if took_s > found.slowest_s:
            again = dataclasses.replace(found)
            took_s = min(once(parser, data, again) for _ in range(3))
            if took_s > found.slowest_s:
                found.slowest_s, found.slowest = took_s, data
        if found.tried % LOOKED_AT == 0:
            found.memory_bytes = max(found.memory_bytes, memory_of(parser, data, found))
    found.memory_bytes = max(found.memory_bytes, memory_of(parser, found.slowest, found))
    return found


def line(name: str, found: Found) -> str:
    """One parser's row."""
    return (
        f"{name:>10} {found.tried:>10,} {found.taken:>9,} {found.longest:>12,} "
        f"{found.slowest_s * 1e3:>10.2f} {len(found.slowest):>12,} "
        f"{found.memory_bytes / 2**20:>9.2f} {len(found.bugs):>5}"
    )


def main() -> None:
    """Share the time out among the parsers, and print a row as each ends."""
    every = parsers()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--seconds", type=float, default=60.0, help="for all parsers together")
    options.add_argument("--target", nargs="+", choices=sorted(every), metavar="NAME")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    names: list[str] = chosen.target or list(every)
    print(
        f"{'parser':>10} {'tried':>10} {'taken':>9} {'longest B':>12} {'slowest ms':>10} "
        f"{'of bytes':>12} {'most MiB':>9} {'bugs':>5}",
        flush=True,
    )
    bugs: dict[str, bytes] = {}
    for name in names:
        found = fuzz(
            every[name], chosen.seconds / len(names), random.Random(f"{chosen.seed} {name}")
        )
        print(line(name, found), flush=True)
        bugs |= {f"{name}: {what}": data for what, data in found.bugs.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest size of this process: {peak:.0f} MiB")
    for what, data in bugs.items():
        print(f"{what}\n    {len(data)} bytes: {data[:SHOWN_BYTES]!r}")
    sys.exit(1 if bugs else 0)


if __name__ == "__main__":
    main()
