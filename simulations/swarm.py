"""The one place for what a seed of the fuzzer draws: a whole scenario, as its file would say it.

Swarm testing (Groce et al. 2012): each kind of fault is in or out for a whole run, so that some
runs have hardly any and others all. What is drawn is the content of a scenario file, so whatever is
found is a file that anybody can run.
"""

import random
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from simulations.chance import between
from simulations.scenario import NODES_MAX

_T = TypeVar("_T")
Content = dict[str, Any]
"""What a scenario file holds."""
SIZES: Final = (3, 4, 5, 8, 12, 16, 24, 32, 50)
FAULTS_S: Final = 60
"""Acts begin within so many seconds ..."""
DURATION_S: Final = 90
"""... of so many; then all faults end."""
JOINED_S: Final = 15
"""Who joins through somebody that vanishes at once knows nobody: no fault of the protocol's."""
_ACTS_MAX: Final = 12


class Swarm:
    """Draws one scenario."""

    def __init__(self, seed: int, nodes: int | None = None) -> None:
        """`nodes`: None draws that, too."""
        self._rng = random.Random(seed)  # noqa: S311  # a run must be repeatable
        self._nodes = min(nodes or self._pick(SIZES), NODES_MAX)

    def content(self) -> Content:
        """The scenario."""
        kinds = [kind for kind in _KINDS if self._chance(40)] or [self._pick(_KINDS)]
        content: Content = {
            "nodes": self._nodes,
            "duration_s": DURATION_S,
            "network": self._network(),
        }
        earliest_s = 0
        if self._chance(20):
            content["form"] = "together"
            earliest_s = JOINED_S
        if protocol := self._protocol():
            content["protocol"] = protocol
        acts = [self._act(self._pick(kinds), earliest_s) for _ in range(self._whole(1, _ACTS_MAX))]
        content["act"] = sorted(acts, key=_beginning)
        return content

    # ---- parts ----

    def _network(self) -> Content:
        network: Content = {"delay_ms": self._pick(_DELAYS)}
        for key, choices in _NETWORK:
            if self._chance(35):
                network[key] = self._pick(choices)
        if self._chance(20):
            network["regions"] = {"east": 2, "west": 1}
            between = {"between": ["east", "west"], "delay_ms": [30, 60]}
            network["link"] = [between]
        return network

    def _protocol(self) -> Content:
        return {key: self._pick(choices) for key, choices in _PROTOCOL if self._chance(10)}

    def _act(self, kind: str, earliest_s: int) -> Content:
        act: Content = {"at_s": self._whole(earliest_s, FAULTS_S), "do": kind}
        act["count"] = self._whole(1, max(1, self._nodes // 3))
        if kind in _LASTING:
            act["for_s"] = self._whole(1, FAULTS_S // 2)
        for key, choices in _OPTIONS.get(kind, ()):
            act[key] = self._pick(choices)
        return act

    # ---- chance ----

    def _whole(self, low: int, high: int) -> int:
        return between(self._rng, (low, high + 1))

    def _chance(self, percent: int) -> bool:
        return self._whole(0, 99) < percent

    def _pick(self, choices: Sequence[_T]) -> _T:
        return choices[self._whole(0, len(choices) - 1)]


def _beginning(act: Content) -> int:
    return int(act["at_s"])


_DELAYS: Final[Sequence[Any]] = (
    [0.2, 0.8],
    [0.5, 5],
    [5, 80],
    {"min": 1, "p50": 3, "p99": 60, "max": 400},
)
_NETWORK: Final[Sequence[tuple[str, Sequence[Any]]]] = (
    ("loss_percent", (0.1, 1, 5, 15)),
    ("duplicate_percent", (0.1, 1, 10)),
    ("reorder_percent", (0.1, 2, 20)),
    ("reorder_ms", ([1, 20], [10, 300])),
)
_PROTOCOL: Final[Sequence[tuple[str, Sequence[int]]]] = (
    ("suspicion_mult", (2, 4, 5)),
    ("indirect_probes", (0, 1, 5)),
    ("retransmit_mult", (2, 6)),
    ("gossip_nodes", (1, 5)),
    ("push_pull_interval_ms", (5_000, 120_000)),
)
_LASTING: Final = (
    *("pause", "starve", "clock", "cut", "block", "sever", "loss", "unplug", "flap"),
    *("lie", "flood", "replay", "spoof", "slow_read", "forge"),
)
_KINDS: Final = (
    *_LASTING,
    *("crash", "crash", "start", "start", "restart", "leave", "move", "backup"),
)
_DISKS: Final = ("kept", "kept", "backup", "lost")
_OPTIONS: Final[dict[str, Sequence[tuple[str, Sequence[Any]]]]] = {
    "crash": (("silent", (True, False)),),
    "start": (("new_address", (True, False)), ("disk", _DISKS)),
    "restart": (("new_address", (True, False)), ("disk", _DISKS)),
    "starve": (("late_ms", ([100, 500], [500, 2_500])), ("slow", (True, False))),
    "clock": (("drift_ppm", (-5_000, 200, 5_000)), ("ahead_s", (-86_400, 0, 3_600))),
    "block": (("direction", ("in", "out", "both")),),
    "sever": (("pairs_percent", (10, 50, 90)),),
    "loss": (("percent", (20, 60, 95)),),
    "lie": (("pace_ms", (20, 100, 500)),),
    "flood": (("pace_ms", (20, 100, 500)),),
    "forge": (("pace_ms", (20, 100, 500)),),
    "slow_read": (("bytes_s", (10, 1_000)),),
    "replay": (("pace_ms", (5, 50)),),
    "spoof": (("pace_ms", (5, 50)),),
}
