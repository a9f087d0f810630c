"""The one place for how long a message is on its way: distributions, regions, measured matrices.

A delay is told by its quantiles, with straight lines between them: `[low, high]` is even, and
`{min, p50, p99, max}` has the long tail that real paths have. All is integers, so that every
machine draws the same.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Final

from protocol.config import MILLISECOND

DRAW_BITS: Final = 32
_WHOLE: Final = 1 << DRAW_BITS
MATRIX_BYTES_MAX: Final = 16 * 2**20
"""A larger file is not read."""
REGIONS_MAX: Final = 1_000
DELAY_MS_MAX: Final = 600_000


class MatrixError(Exception):
    """A latency matrix that cannot be used; the text is one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delay:
    """One-way delays: quantiles as (share of 2**32, nanoseconds), from 0 to 2**32, rising."""

    points: tuple[tuple[int, int], ...]

    def at(self, draw: int) -> int:
        """The delay of a draw of 32 bits, in nanoseconds."""
        (left, low), *rest = self.points
        for right, high in rest:
            if draw < right:
                return low + (draw - left) * (high - low) // (right - left)
            left, low = right, high
        return low

    @property
    def least_ns(self) -> int:
        """Nothing arrives sooner."""
        return self.points[0][1]


def even(low_ns: int, high_ns: int) -> Delay:
    """Every delay between the two is as likely."""
    return Delay(((0, low_ns), (_WHOLE, high_ns)))


def tailed(min_ns: int, p50_ns: int, p99_ns: int, max_ns: int) -> Delay:
    """Half arrive within `p50_ns`, one in a hundred after `p99_ns`."""
    shares = (0, _WHOLE // 2, _WHOLE * 99 // 100, _WHOLE)
    return Delay(tuple(zip(shares, (min_ns, p50_ns, p99_ns, max_ns), strict=True)))


@dataclasses.dataclass(frozen=True, slots=True)
class Path:
    """What lies between two regions, each way alike."""

    delay: Delay
    loss_ppm: int = 0
    """Of datagrams, beside what is lost everywhere."""


class Regions:
    """Which region each host is in, and the path between any two."""

    def __init__(
        self,
        names: Sequence[str] = (),
        weights: Sequence[int] = (),
        paths: dict[tuple[int, int], Path] | None = None,
    ) -> None:
        """`weights`: how the hosts are shared out, in order. `paths`: by the two regions' places
        in `names`; a pair that is missing has the network's own delay.
        """
        self.names = tuple(names)
        self._weights = tuple(weights)
        self._paths = paths or {}

    def __bool__(self) -> bool:
        return bool(self.names)

    def members(self, size: int) -> dict[str, list[int]]:
        """The hosts of each region, when there are `size`."""
        found: dict[str, list[int]] = {name: [] for name in self.names}
        for host, region in enumerate(self.places(size)):
            found[self.names[region]].append(host)
        return found

    def places(self, size: int) -> list[int]:
        """The region of each host, by its place in `names`."""
        total = sum(self._weights)
        ends: list[int] = []
        reached = 0
        for weight in self._weights:
            reached += weight
            ends.append(size * reached // total)
        return [
            region
            for region, (begin, end) in enumerate(zip((0, *ends), ends, strict=False))
            for _ in range(begin, end)
        ]

    @property
    def loss_ppm(self) -> int:
        """On the worst path."""
        return max((path.loss_ppm for path in self._paths.values()), default=0)

    def path(self, one: int, other: int) -> Path | None:
        """Between two regions, by their places."""
        return self._paths.get((one, other)) or self._paths.get((other, one))


def read_matrix(path: pathlib.Path, *, is_round_trip: bool, jitter_ppm: int) -> Regions:
    """Regions and delays from a CSV file: the names in the first row and the first column, in the
    cells milliseconds, one way or there and back. Each delay varies upward by up to `jitter_ppm`.
    The hosts are shared out evenly. Raises MatrixError.
    """
    rows = _rows(path)
    names = [cell.strip() for cell in rows[0][1:]] if rows else []
    if not 0 < len(names) <= REGIONS_MAX or len(dict.fromkeys(names)) != len(names):
        raise MatrixError(f"{path.name}: the first row must name 1 to {REGIONS_MAX} regions, once")
    if [row[0].strip() for row in rows[1:]] != names:
        raise MatrixError(f"{path.name}: the first column must name the regions in the same order")
    paths: dict[tuple[int, int], Path] = {}
    for one, row in enumerate(rows[1:]):
        if len(row) != len(names) + 1:
            raise MatrixError(f"{path.name}: row {names[one]!r} must have {len(names)} figures")
        for other, cell in enumerate(row[1:]):
            way_ns = _nanoseconds(path, names[one], cell) // (2 if is_round_trip else 1)
            delay = even(way_ns, way_ns + way_ns * jitter_ppm // 1_000_000)
            paths[one, other] = Path(delay)
    return Regions(names, [1] * len(names), paths)


def _rows(path: pathlib.Path) -> list[list[str]]:
    try:
        if path.exists() and not path.is_file():
            raise MatrixError(f"{path} is no file")
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read(MATRIX_BYTES_MAX + 1)
    except UnicodeDecodeError as error:
        raise MatrixError(f"{path.name} is not UTF-8 text") from error
    except (OSError, ValueError) as error:  # ValueError: no file can have that name
        reason = error.strerror if isinstance(error, OSError) else None
        raise MatrixError(f"cannot read {str(path)!r}: {reason or error}") from error
    if len(text) > MATRIX_BYTES_MAX:
        raise MatrixError(f"{path.name} has more than {MATRIX_BYTES_MAX} bytes")
    try:
        return [row for row in csv.reader(text.splitlines(), strict=True) if row]
    except csv.Error as error:
        raise MatrixError(f"{path.name} is not CSV: {error}") from error


def _nanoseconds(path: pathlib.Path, region: str, cell: str) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value <= DELAY_MS_MAX:
        raise MatrixError(
            f"{path.name}: {cell.strip()!r} in row {region!r} is not 0 to {DELAY_MS_MAX} ms"
        )
    return round(value * MILLISECOND)
