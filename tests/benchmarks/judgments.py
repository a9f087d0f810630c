"""Draws sets of authority records, and holds that everybody comes to the same mesh.

The property is `tests/protocol/test_judgment.py`'s: two nodes that take the records in in different
orders, and then tell each other what counts for them, agree with each other, with a newcomer that
is told the outcome, and with judging all records at once. Here it is tried on as many sets as are
asked for, drawn anew in each run. Prints how many; exit status 1, and the smallest set that shows
it, when it does not hold.

Run: python -m tests.benchmarks.judgments [--sets 10000]
"""

import argparse
import sys
import time

from hypothesis import HealthCheck, settings

from tests.protocol.test_judgment import test_any_records_in_any_order_give_one_mesh as property_


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=10_000)
    sets = parser.parse_args().sets
    thorough = settings(
        max_examples=sets,
        deadline=None,
        derandomize=False,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    started = time.monotonic()
    try:
        thorough(property_)()
    except AssertionError as error:
        print(f"two views differ: {error}")
        return 1
    print(f"{sets} sets of records in {time.monotonic() - started:.0f} s: one mesh each time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
