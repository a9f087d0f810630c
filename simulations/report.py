"""The one place for results as files that other programs read."""

import csv
import io
from collections.abc import Sequence
from typing import Final

from simulations.origin import digest
from simulations.run import Result

_COLUMNS: Final = ("scenario", "seed", "nodes", "trace_hash", "node", "commit", "configuration")


def as_csv(results: Sequence[Result]) -> str:
    """One row per run: scenario, seed, nodes, trace hash, class of the nodes, commit and
    configuration, then every measure that any run has.
    """
    names: dict[str, None] = {}
    for result in results:
        names.update(dict.fromkeys(result.measures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *names])
    for result in results:
        cells = [result.measures.get(name) for name in names]
        origin = [result.node, result.commit, digest(result.configuration)]
        row = [result.scenario, result.seed, result.nodes, result.trace_hash, *origin, *cells]
        writer.writerow(["" if cell is None else cell for cell in row])
    return text.getvalue()
