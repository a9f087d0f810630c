"""The one place that finds the functions which this machine can run.

A function is an entry point of the group `meshd.functions`. Nothing is imported here: a name and
where it leads is all that the daemon needs, the import happens in the job's own process.
"""

import importlib.metadata

from runtimes.functions.call import is_function_name

ENTRY_POINT_GROUP = "meshd.functions"
BUILT_IN = {
    "meshd.primes": "runtimes.functions.primes:primes",
    "meshd.word_count": "runtimes.functions.word_count:word_count",
}
"""What is there even in a checkout that was never installed."""


def known_functions() -> dict[str, str]:
    """Functions by name, each as `MODULE:ATTRIBUTE`, sorted. Names that are none are left out."""
    found = {**BUILT_IN}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if is_function_name(point.name):
            found[point.name] = point.value
    return dict(sorted(found.items()))
