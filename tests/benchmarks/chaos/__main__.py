"""Whether requests survive a mesh in which everything breaks, and how long the gaps are.

Five real daemons in network namespaces of their own: three serve the same deterministic model, two
take 64 concurrent streams and are never harmed. At least once a second a serving daemon is killed
(and started again at once, sometimes slow, with hardly any slots, or with a model that crashes
every few tokens), stopped for seconds, cut off the network, or has some of its connections reset;
one that is well is always left. Every answer is compared with what it must be, token for token.

Run (as root, with iproute2): python -m tests.benchmarks.chaos [--faults 100] [--streams 64]
"""

import argparse
import collections
import json
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from meshd.control_client import ask
from tests.benchmarks.chaos.clients import MODEL, App, Asked, begin
from tests.benchmarks.chaos.faults import KILLS, Chaos, Fault, Serving
from tests.benchmarks.chaos.network import Machine, machines
from tests.helpers.daemons import Daemon, Daemons, start_together, until

SERVING: Final = ("anna", "bert", "cleo")
GATEWAYS: Final = ("dora", "emil")
DELAY_MS: Final = 300
USUAL: Final = f"test:{MODEL},delay_ms={DELAY_MS},slots=64,queue=16"
SPECS: Final = {
    "kill": USUAL,
    "slow": f"test:{MODEL},delay_ms=900,slots=64,queue=16",
    "full": f"test:{MODEL},delay_ms={DELAY_MS},slots=2,queue=1",
    "crashing": f"{USUAL},fail_at=12",
}
OUTCOMES: Final = ("exact", "wrong", "hung", "refused", "interrupted")
LAST_S: Final = 90.0
"""For the last streams to end."""
CAUSE_S: Final = 8.0
"""A fault is not taken for the cause of what breaks later than this."""


def main() -> int:
    """Run it; 1 when a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--each", type=int, default=0, help="go on until each kind was so often")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--pause", type=float, default=0.9, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for logs and what was asked")
    options = parser.parse_args()
    names = (*SERVING, *GATEWAYS)
    with tempfile.TemporaryDirectory() as scratch, machines(names) as places:
        folder = options.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with Daemons(folder) as daemons:
            nodes = _mesh(daemons, places)
            end = threading.Event()
            gateways = [(places[name], nodes[name].url) for name in GATEWAYS]
            apps = begin(options.streams, gateways, end)
            time.sleep(3.0)
            serving = [Serving(nodes[name], places[name], SPECS) for name in SERVING]
            chaos = Chaos(serving, random.Random(options.seed))  # repeatable
            begun = time.monotonic()
            chaos.run(options.faults, options.pause, options.each)
            lasted_s = time.monotonic() - begun
            end.set()
            for app in apps:
                app.thread.join(LAST_S)
            asked = [each for app in apps for each in app.asked]
            _wait_idle([nodes[name] for name in SERVING])
            if options.keep:
                _keep(options.keep, asked, chaos.faults)
            # Before the daemons end: then their logs are searched for what must not be there.
            return _report(asked, apps, chaos.faults, lasted_s)


def _mesh(daemons: Daemons, places: dict[str, Machine]) -> dict[str, Daemon]:
    nodes: dict[str, Daemon] = {}
    for name, place in places.items():
        model = USUAL if name in SERVING else "none"
        listen = f"{place.address}:0"
        nodes[name] = daemons.add(name, model=model, listen=listen, prefix=place.prefix)
    founder, *others = nodes.values()
    start_together(founder, others)

    def is_whole() -> bool:
        rows = [ask(daemon.home, "models", local=False)["models"] for daemon in nodes.values()]
        return all([len(row["nodes"]) for row in models] == [len(SERVING)] for models in rows)

    until("all know all that serve", is_whole, 40.0)
    return nodes


def _wait_idle(serving: Sequence[Daemon]) -> None:
    """Nobody works at what nobody waits for."""

    def is_idle() -> bool:
        return all(ask(each.home, "status")["load"]["running"] == 0 for each in serving)

    until("nobody works any more", is_idle, 20.0)


# ---- what it showed ----


def _gaps(asked: Sequence[Asked], faults: Sequence[Fault]) -> Iterator[tuple[str, float]]:
    """Per stream that broke: the kind of fault, and how long nothing came, less a token's time."""
    for one in asked:
        for attempt in one.told.get("attempts", ())[:-1]:
            if not attempt["tokens"] or one.outcome != "exact":
                continue
            broke = one.began + attempt["ended_s"]
            before = [at for at in one.at if at < broke]
            after = [at for at in one.at if at >= broke]
            if not before or not after:
                continue
            causes = [
                fault
                for fault in faults
                if fault.node == attempt["node"] and 0 <= broke + 0.2 - fault.at < CAUSE_S
            ]
            kind = causes[-1].kind if causes else "none"
            if "crash" in str(attempt["failure"]):
                kind = "crash"
            elif kind in KILLS:
                kind = "kill"
            yield kind, max(0.0, after[0] - before[-1] - DELAY_MS / 1000)


def _report(
    asked: Sequence[Asked], apps: Sequence[App], faults: Sequence[Fault], lasted_s: float
) -> int:
    counted = collections.Counter(one.outcome or "hung" for one in asked)
    counted["hung"] += sum(app.thread.is_alive() for app in apps)
    kinds = collections.Counter(fault.kind for fault in faults)
    resumed = sum(one.told.get("continuations", 0) for one in asked)
    print(f"{len(faults)} faults in {lasted_s:.0f} s: {dict(kinds)}")
    print(f"{len(asked)} requests, {sum(len(one.at) for one in asked)} tokens, ", end="")
    print(f"{resumed} continuations")
    for outcome in OUTCOMES:
        print(f"  {outcome:12} {counted[outcome]:6}")
    for one in asked:
        if one.outcome != "exact":
            print(f"  {one.outcome}: {one.words[:300]}", file=sys.stderr)
    found: dict[str, list[float]] = {}
    for kind, gap_s in _gaps(asked, faults):
        found.setdefault(kind, []).append(gap_s)
    print(f"gaps in seconds, beside the {DELAY_MS / 1000} s that a token takes:")
    print(f"  {'after':10} {'streams':>8} {'p50':>7} {'p99':>7} {'worst':>7}")
    for kind, gaps in sorted(found.items()):
        gaps.sort()
        p99 = gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)]
        figures = (statistics.median(gaps), p99, gaps[-1])
        print(f"  {kind:10} {len(gaps):8} " + " ".join(f"{figure:7.3f}" for figure in figures))
    return 0 if counted["exact"] == counted.total() else 1


def _keep(folder: pathlib.Path, asked: Sequence[Asked], faults: Sequence[Fault]) -> None:
    with (folder / "asked.jsonl").open("w") as file:
        for one in asked:
            line = {"began": one.began, "outcome": one.outcome, "words": one.words, "at": one.at}
            file.write(json.dumps({**line, "told": one.told}) + "\n")
    with (folder / "faults.jsonl").open("w") as file:
        for fault in faults:
            file.write(json.dumps([fault.kind, fault.node, fault.at]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
