"""Fuzzes every parser of bytes from outside: near misses of valid inputs, long ones, and noise.

Each must give a value or raise its typed refusal. Prints for each parser the inputs tried, how many
were taken, the slowest input (processor time; measured again three times, the least counts), the
most memory that one input took (Python's own, of every 64th input and of the slowest), and whatever
else left the parser, with an input that shows it. "at worst" is not chance: what is the most work
that the parser's limits allow, as far as we know. Exit status 1 when anything else left a parser.

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

from meshd import payloads
from protocol.codec import ENTRIES_MAX, STREAM_STATEMENTS_MAX, encode_stream
from protocol.exchange import REQUEST_BYTES_MAX, Ask, encode_frame
from protocol.messages import Difference, Entry
from runtimes import limits
from runtimes.base import ChatMessage, GenerateRequest
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
            look_at(parser, data, again)
            found.slowest_s, found.slowest = again.slowest_s, again.slowest
            found.memory_bytes = again.memory_bytes
        if found.tried % LOOKED_AT == 0:
            found.memory_bytes = max(found.memory_bytes, memory_of(parser, data, found))
    return found


def look_at(parser: Parser, data: bytes, found: Found) -> None:
    """Time one input, and watch its memory."""
    took_s = min(once(parser, data, found) for _ in range(3))
    if took_s > found.slowest_s:
        found.slowest_s, found.slowest = took_s, data
    found.memory_bytes = max(found.memory_bytes, memory_of(parser, data, found))


def longest(name: str) -> tuple[bytes, ...]:
    """The most work that its limits allow, as far as we know."""
    array = b"\xdd" + STREAM_STATEMENTS_MAX.to_bytes(4, "big")
    match name:
        case "stream":
            statements = array + b"\xc4\x01x" * STREAM_STATEMENTS_MAX
            numbers = b"\x91" + array + b"\x01" * STREAM_STATEMENTS_MAX
            full = encode_stream(Difference(0, (Entry(bytes(8), 0, 1, 2),) * ENTRIES_MAX, 0, ()))
            return b"\x95\x01\x00\x90" + statements + b"\xc0", numbers, full
        case "exchange":
            return (encode_frame(Ask("f", 1, bytes(REQUEST_BYTES_MAX - 20))),)
        case "body":
            turns = (ChatMessage(role="user", content="x" * 800),) * limits.MESSAGES_MAX
            tokens = b"\xdd" + (2**21).to_bytes(4, "big") + b"\x01" * 2**21
            return payloads.pack_request(GenerateRequest(model="m", messages=turns)), tokens
        case "chat":
            turn = b'{"role":"user","content":"x"},'
            many = b'{"model":"m","messages":[' + turn * 40_000 + b"0]}"
            texts = b'{"model":"m","x":[' + b'"",' * 99_000 + b"0]}"
            return many, texts, b'{"model":"' + b"[," * (4 * 2**20 - 20) + b'"}', b"[" * 200_000
        case "token":
            return (b"meshd1_" + b"A" * 4_089, b" " * 65_536)
    return ()


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
        worst = Found()
        for data in longest(name):
            worst.tried += 1
            worst.longest = max(worst.longest, len(data))
            look_at(every[name], data, worst)
        if worst.tried:
            print(line("at worst", worst), flush=True)
        found.bugs |= worst.bugs
        bugs |= {f"{name}: {what}": data for what, data in found.bugs.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest size of this process: {peak:.0f} MiB")
    for what, data in bugs.items():
        print(f"{what}\n    {len(data)} bytes: {data[:SHOWN_BYTES]!r}")
    sys.exit(1 if bugs else 0)


if __name__ == "__main__":
    main()
