"""The one place for network coordinates: estimating round trips to members without asking them.

Vivaldi (Dabek and others, SIGCOMM 2004): each member is a point, and each measured round trip is
a spring between two points. The height stands for the access link, which every path pays; the
adjustment (Lee and others, 2010) takes up what no such space can express; gravity (Ledlie and
others, NSDI 2007) keeps the cloud from drifting off. The constants are Serf's.

All numbers are integers, so that every machine computes the same. Against liars, and against
members that answer late, there are guards that Serf lacks: a sample that surprises far more than
the last ones did counts only as much as they allow (`_bound_ns`), the height moves no further than
the vector, one sample turns the own error by a quarter at most, and nobody is surer than a floor.
"""

import dataclasses
import math
import operator
import random
from typing import Final

from protocol.config import SECOND
from protocol.errors import DropReason, Refused
from protocol.identity import NodeId

DIMENSIONS: Final = 8
POSITION_NS_MAX: Final = 2**31 - 1
"""Of one item of the vector, either way, and of the height: what 32 bits hold, 2.1 s."""
HEIGHT_NS_MIN: Final = 10_000
ADJUSTMENT_NS_MAX: Final = 100_000_000
ERROR_PPM_MAX: Final = 1_500_000
ERROR_PPM_MIN: Final = 1_000
"""Without a floor an error that reached zero would stay there, and a liar could claim it."""

ROUND_TRIP_NS_MAX: Final = 10 * SECOND
DEVIATION_NS_MAX: Final = 2 * ADJUSTMENT_NS_MAX
"""The most by which one sample may differ from the estimate; what is beyond never counts."""
DEVIATION_NS_SURE: Final = 100_000
"""So much may it always differ, so that nothing freezes where estimates have been perfect."""
_ERRORS_USUAL: Final = 4
_SHARE_OF_USUAL: Final = 16

PEERS_MAX: Final = 4_096
_SAMPLES: Final = 3
_WINDOW: Final = 20
_SHARE: Final = 4
"""One sample moves error and place by a quarter at most (Vivaldi's c_e and c_c, both 0.25)."""
_COINCIDENT_NS: Final = 1_000
_GRAVITY_NS: Final = 150 * 150 * SECOND
_MILLION: Final = 1_000_000


@dataclasses.dataclass(slots=True, kw_only=True)  # frozen, it would take four times as long
class Coordinate:
    """A point in the space of round trips; nanoseconds but for the error."""

    vector: tuple[int, ...]
    """DIMENSIONS integers."""
    height: int
    """What every path to this node costs on top."""
    adjustment: int
    """Half of what its round trips lately were above (or below) the space's distances."""
    error_ppm: int
    """How wrong its estimates are: a relative error, in parts per million."""

    def distance_ns(self, other: "Coordinate") -> int:
        """Estimated round trip between both; positive for sane coordinates."""
        bare = self.bare_distance_ns(other)
        adjusted = bare + self.adjustment + other.adjustment
        return adjusted if adjusted > 0 else bare

    def bare_distance_ns(self, other: "Coordinate") -> int:
        """The distance without both adjustments."""
        return math.isqrt(_square(_between(self, other))) + self.height + other.height


COORDINATE_ORIGIN: Final = Coordinate(
    vector=(0,) * DIMENSIONS, height=HEIGHT_NS_MIN, adjustment=0, error_ppm=ERROR_PPM_MAX
)
"""Where everybody starts, knowing nothing."""


_ITEMS: Final = DIMENSIONS + 3
"""On the wire: vector, height, adjustment, error."""
_INTEGERS: Final = {int}


def is_sane(coordinate: Coordinate) -> bool:
    """Whether every item is an integer within its bounds, and their number is right."""
    items = encode_coordinate(coordinate)
    if len(items) != _ITEMS or {*map(type, items)} != _INTEGERS:
        return False
    vector = coordinate.vector
    return (
        min(vector) >= -POSITION_NS_MAX
        and max(vector) <= POSITION_NS_MAX
        and HEIGHT_NS_MIN <= coordinate.height <= POSITION_NS_MAX
        and -ADJUSTMENT_NS_MAX <= coordinate.adjustment <= ADJUSTMENT_NS_MAX
        and ERROR_PPM_MIN <= coordinate.error_ppm <= ERROR_PPM_MAX
    )


def encode_coordinate(coordinate: Coordinate) -> tuple[int, ...]:
    """Vector, height, adjustment, error: 11 integers, at most 56 bytes of msgpack when sane."""
    return (
        *coordinate.vector,
        coordinate.height,
        coordinate.adjustment,
        coordinate.error_ppm,
    )


def decode_coordinate(value: object) -> Coordinate:
    """The inverse of `encode_coordinate`, for any value. Raises Refused(MALFORMED).

    What it returns is sane. Items behind the last are ignored, as everywhere on the wire.
    """
    if not isinstance(value, tuple) or len(value) < _ITEMS:
        raise Refused(DropReason.MALFORMED, "coordinate")
    height, adjustment, error_ppm = value[DIMENSIONS:_ITEMS]
    coordinate = Coordinate(
        vector=value[:DIMENSIONS], height=height, adjustment=adjustment, error_ppm=error_ppm
    )
    if not is_sane(coordinate):
        raise Refused(DropReason.MALFORMED, "coordinate")
    return coordinate


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class _Peer:
    coordinate: Coordinate
    round_trips_ns: tuple[int, ...]


class Coordinates:
    """One node's own coordinate, and the last known ones of those that it measured."""

    __slots__ = ("_deviations_ns", "_errors_ns", "_peers", "_round_trips_ns", "own")

    def __init__(self) -> None:
        self.own = COORDINATE_ORIGIN
        """To be told to others."""
        self._errors_ns: tuple[int, ...] = ()
        """How far the last estimates were off, whatever the direction: what is usual here."""
        self._round_trips_ns: tuple[int, ...] = ()
        self._deviations_ns: tuple[int, ...] = ()
        """What bare distances left over lately."""
        self._peers: dict[NodeId, _Peer] = {}

    def observe(
        self, node: NodeId, peer: Coordinate, round_trip_ns: int, rng: random.Random
    ) -> None:
        """`node`, which says that it is at `peer`, answered after `round_trip_ns`.

        Nothing happens when the coordinate is not sane, or the round trip not within
        (0, ROUND_TRIP_NS_MAX]. `rng` gives a direction when both are at one point, nothing else.
        """
        if not 0 < round_trip_ns <= ROUND_TRIP_NS_MAX or not is_sane(peer):
            return
        sample_ns = self._remember(node, peer, round_trip_ns)
        bound_ns = self._bound_ns()
        off_ns = sample_ns - self.own.distance_ns(peer)
        error_ns = min(abs(off_ns), DEVIATION_NS_MAX)
        self._errors_ns = (*self._errors_ns, error_ns)[-_WINDOW:]
        self._round_trips_ns = (*self._round_trips_ns, sample_ns)[-_WINDOW:]
        deviation_ns = _clamp(off_ns, -bound_ns, bound_ns)
        moved = _pulled_by_spring(self.own, peer, sample_ns, deviation_ns, rng)
        left_ns = _clamp(sample_ns - moved.bare_distance_ns(peer), -bound_ns, bound_ns)
        self._deviations_ns = (*self._deviations_ns, left_ns)[-_WINDOW:]
        # By the full window, also while it fills: few samples shall not count much.
        self.own = Coordinate(
            vector=_pulled_by_gravity(moved.vector),
            height=moved.height,
            adjustment=_divide(sum(self._deviations_ns), 2 * _WINDOW),
            error_ppm=moved.error_ppm,
        )

    def estimate_ns(self, node: NodeId) -> int | None:
        """Estimated round trip to `node`; None for one that was not measured or is forgotten."""
        peer = self._peers.get(node)
        return None if peer is None else self.own.distance_ns(peer.coordinate)

    def forget(self, node: NodeId) -> None:
        """Drop what is known of `node`; what it taught us about our own place stays."""
        self._peers.pop(node, None)

    def _bound_ns(self) -> int:
        """How much of the next sample's deviation counts.

        That is four times the usual error, or a sixteenth of the usual round trip (else two near
        members among far ones would never come together). A minority cannot move us far, however
        it lies. Who really moved, or has just come, is surprised by most samples, and soon follows
        them at full pace.
        """
        if not self._errors_ns:
            return DEVIATION_NS_MAX
        errors_ns = _ERRORS_USUAL * _median(self._errors_ns)
        bound_ns = max(errors_ns, _median(self._round_trips_ns) // _SHARE_OF_USUAL)
        return _clamp(bound_ns, DEVIATION_NS_SURE, DEVIATION_NS_MAX)

    def _remember(self, node: NodeId, peer: Coordinate, round_trip_ns: int) -> int:
        """Keep the sample; returns the median of the last ones."""
        known = self._peers.pop(node, None)
        if len(self._peers) >= PEERS_MAX:
            # The one that was measured longest ago.
            del self._peers[next(iter(self._peers))]
        earlier = () if known is None else known.round_trips_ns
        samples = (*earlier, round_trip_ns)[-_SAMPLES:]
        self._peers[node] = _Peer(peer, samples)
        return _median(samples)


def _pulled_by_spring(
    own: Coordinate, peer: Coordinate, round_trip_ns: int, deviation_ns: int, rng: random.Random
) -> Coordinate:
    """Error, vector and height after one sample; whoever is less sure moves more.

    `deviation_ns`: by how much the sample is above the estimate, as far as that counts.
    """
    part, whole = own.error_ppm, _SHARE * (own.error_ppm + peer.error_ppm)
    wrong_ppm = min(abs(deviation_ns) * _MILLION // round_trip_ns, ERROR_PPM_MAX)
    turn_ppm = _divide((wrong_ppm - own.error_ppm) * part, whole)
    force_ns = _divide(deviation_ns * part, whole)

    way = _between(own, peer)
    length = math.isqrt(_square(way))
    height = own.height
    if length > _COINCIDENT_NS:
        rise_ns = _divide(force_ns * (own.height + peer.height), length)
        height += _clamp(rise_ns, -abs(force_ns), abs(force_ns))
    else:
        # Odd numbers, because they are never all zero.
        way = tuple(2 * rng.getrandbits(32) + 1 - 2**32 for _ in range(DIMENSIONS))
        length = math.isqrt(_square(way))
    vector = tuple(map(operator.add, own.vector, _scaled(way, force_ns, length)))
    if max(vector) > POSITION_NS_MAX or min(vector) < -POSITION_NS_MAX:
        vector = tuple(_clamp(place, -POSITION_NS_MAX, POSITION_NS_MAX) for place in vector)
    return Coordinate(
        vector=vector,
        height=_clamp(height, HEIGHT_NS_MIN, POSITION_NS_MAX),
        adjustment=own.adjustment,
        error_ppm=max(own.error_ppm + turn_ppm, ERROR_PPM_MIN),
    )


def _pulled_by_gravity(vector: tuple[int, ...]) -> tuple[int, ...]:
    """A little nearer to the origin: by the square of the distance in units of 150 s."""
    square = _square(vector)
    if 2 * square < _GRAVITY_NS:
        return vector  # by less than half a nanosecond, that is, nowhere
    length = math.isqrt(square)
    return tuple(place - _divide(place * length, _GRAVITY_NS) for place in vector)


def _between(here: Coordinate, there: Coordinate) -> tuple[int, ...]:
    """From there to here: the way on which `here` is pushed off."""
    return tuple(map(operator.sub, here.vector, there.vector))


def _square(vector: tuple[int, ...]) -> int:
    return sum(map(operator.mul, vector, vector))


def _median(values: tuple[int, ...]) -> int:
    """Of an even number, the lower one: what is late is wrong more often than what is early."""
    return sorted(values)[(len(values) - 1) // 2]


def _scaled(vector: tuple[int, ...], factor: int, divisor: int) -> list[int]:
    """Each item times `factor / divisor`, rounded as by `_divide`."""
    twice = 2 * divisor
    products = [2 * factor * item for item in vector]
    return [
        (product + divisor) // twice if product >= 0 else -((divisor - product) // twice)
        for product in products
    ]


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _divide(dividend: int, divisor: int) -> int:
    """To the nearest integer, halves away from zero: rounding down would make all drift."""
    quotient = (2 * abs(dividend) + divisor) // (2 * divisor)
    return quotient if dividend >= 0 else -quotient
