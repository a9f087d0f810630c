"""Prints the simulator's pace, as `meshd sim bench` does; through `compiled.py` that of C code.

Run: python -m tests.benchmarks.bench --nodes 1000
     python -m tests.benchmarks.compiled bench --nodes 1000
"""

import argparse
import json

from simulations.bench import bench


def main() -> None:
    """Time one mesh and print what it showed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of virtual time")
    parser.add_argument("--starved", type=int, default=0, help="nodes that read late")
    options = parser.parse_args()
    pace = bench(options.nodes, options.seconds, options.starved)
    print(json.dumps(pace.to_json(), indent=2))


if __name__ == "__main__":
    main()
