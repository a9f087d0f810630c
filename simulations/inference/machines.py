"""The one place for what serves: classes of machines, their speeds, and which node is which.

The law of continuous batching: with n requests running, each decodes at

    decode speed / (1 + slowdown * (n - 1))

tokens per second, and those in prefill share the prefill speed evenly. A slowdown of 0: others cost
nothing; of 1: all together are as fast as one alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.config import SECOND

MILLION: Final = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One class of serving machines. Speeds in thousandths of a token per second."""

    name: str
    prefill_milli: int
    decode_milli: int
    """Of one request alone."""
    slots: int
    """Requests that run at a time."""
    queue: int = 32
    """Requests that wait; one more is refused. 32 is the llama runtime's."""
    slowdown_ppm: int = 100_000
    """How much each further request slows the others down, in millionths."""
    load_ns: int = 10 * SECOND
    """From the start of its process until it can serve."""

    def decode_rate_milli(self, running: int) -> int:
        """Of each of so many running requests."""
        return self.decode_milli * MILLION // (MILLION + self.slowdown_ppm * (running - 1))

    def prefill_ns(self, tokens: int) -> int:
        """How long so many tokens of a prompt take, of one alone."""
        return tokens * 1_000 * SECOND // self.prefill_milli

    def decode_ns(self, tokens: int) -> int:
        """The same of an answer's."""
        return tokens * 1_000 * SECOND // self.decode_milli

    def request_ns(self, prompt_milli: int, output_milli: int) -> int:
        """How long a request of that size runs while all slots are full. Lengths in thousandths.

        Its first token is the end of its prefill. Requests that prefill at the same moment take
        longer than this.
        """
        prefill_ns = prompt_milli * SECOND // self.prefill_milli
        decode_ns = max(0, output_milli - 1_000) * SECOND // self.decode_rate_milli(self.slots)
        return max(1, prefill_ns + decode_ns)

    def capacity_uhz(self, prompt_milli: int, output_milli: int) -> int:
        """Requests of that mean size that it can complete in 10**6 seconds."""
        return self.slots * MILLION * SECOND // self.request_ns(prompt_milli, output_milli)


# A model of 8 billion weights at 4 bits (Q4_K_M, 4.6 GB) in llama.cpp. Measured: 4090 and 4080
# (github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference, May 2024, 1,024 tokens). Estimated: 4070
# and 4060, from the 4070 Ti measured there (82 and 3,650) by memory bandwidth and cores; a desktop
# CPU with two channels of DDR5, by memory bandwidth. The slowdown of the CPU is the one that
# llama.cpp showed on two cores with 1, 4 and 8 sequences (101, 208 and 263 tokens/s); that of the
# cards is a guess.
CLASSES: Final = {
    machine.name: machine
    for machine in (
        Machine(name="rtx4090", prefill_milli=6_900_000, decode_milli=128_000, slots=8),
        Machine(name="rtx4080", prefill_milli=5_060_000, decode_milli=106_000, slots=6),
        Machine(name="rtx4070", prefill_milli=2_800_000, decode_milli=80_000, slots=4),
        Machine(name="rtx4060", prefill_milli=1_500_000, decode_milli=45_000, slots=2),
        Machine(
            name="cpu", prefill_milli=60_000, decode_milli=8_000, slots=1, slowdown_ppm=300_000
        ),
    )
}
"""By name, rough on purpose: only their ratios matter to a policy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """So many nodes, or such a share of all, are machines of this class."""

    machine: Machine
    count: int = 0
    share_ppm: int = 0


def counts(nodes: int, portions: Sequence[Portion]) -> list[int]:
    """How many of each that is; shares are rounded so that their sum is."""
    found: list[int] = []
    shared_ppm = 0
    for portion in portions:
        before = (nodes * shared_ppm + MILLION // 2) // MILLION
        shared_ppm += portion.share_ppm
        found.append(portion.count or (nodes * shared_ppm + MILLION // 2) // MILLION - before)
    return found


def deal(nodes: int, portions: Sequence[Portion]) -> list[Machine | None]:
    """Which machine each node is, evenly mixed over their numbers; None: it serves nothing.

    The portions must not come to more than there are nodes.
    """
    serving = counts(nodes, portions)
    kinds: list[Machine | None] = [*(portion.machine for portion in portions), None]
    wanted = list(zip(kinds, [*serving, nodes - sum(serving)], strict=True))
    dealt = [0] * len(wanted)
    machines: list[Machine | None] = []
    for number in range(1, nodes + 1):
        behind = [
            (count * number - dealt[kind] * nodes, -kind)
            for kind, (_, count) in enumerate(wanted)
            if dealt[kind] < count
        ]
        kind = -max(behind)[1]
        dealt[kind] += 1
        machines.append(wanted[kind][0])
    return machines
