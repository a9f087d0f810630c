"""Many seeds of the fuzzer, through `compiled.py` in half the time.

Every seed draws a mesh, its network and all its faults, and the checkers look at what became of it
(`meshd sim fuzz`). Prints what each failing seed violated, and where its scenario was written.

Run: python -m tests.benchmarks.compiled fuzz [--seeds 1000] [--nodes 50] [--out FOLDER]
The exit status is 1 when a seed failed.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from typing import Final

from simulations.fuzz import fuzz, save

TELL_EVERY: Final = 50


def main() -> None:
    """Look at all seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    options = parser.parse_args()
    began, failed = time.monotonic(), 0
    looked = fuzz(
        options.first_seed, options.seeds, nodes=options.nodes, processes=options.processes
    )
    for count, finding in enumerate(looked, 1):
        if finding.violations:
            failed += 1
            path = save(finding, options.out)
            print(f"seed {finding.seed}: {finding.violations[0]}: {path}", flush=True)
        if count % TELL_EVERY == 0:
            print(f"{count} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{options.seeds} seeds of {options.nodes} nodes, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
