"""Network coordinates: how well they estimate, and how little a liar moves them.

The worlds are those by which Serf judges its own coordinates, but no seed is picked: what is said
to be reached was the worst of the seeds 1 to 8; one of them runs here. The vectors are written
anew by `python -m tests.protocol.test_coordinates`.
"""

import dataclasses
import json
import math
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.coordinates import (
    ADJUSTMENT_NS_MAX,
    COORDINATE_ORIGIN,
    DEVIATION_NS_MAX,
    DEVIATION_NS_SURE,
    DIMENSIONS,
    ERROR_PPM_MAX,
    ERROR_PPM_MIN,
    HEIGHT_NS_MIN,
    PEERS_MAX,
    POSITION_NS_MAX,
    ROUND_TRIP_NS_MAX,
    Coordinate,
    Coordinates,
    decode_coordinate,
    encode_coordinate,
    is_sane,
)
from protocol.errors import DropReason, Refused
from protocol.fields import pack, unpack
from protocol.identity import NodeId

VECTORS = pathlib.Path(__file__).parents[1] / "vectors" / "coordinates.json"
MS = 1_000_000
Truth = list[list[int]]
"""Round trips in nanoseconds between all pairs."""
Lie = Callable[[Coordinate, int, random.Random], tuple[Coordinate, int]]
"""(the victim's coordinate, the true round trip, chance) -> what the liar makes of it."""


class OnlyBits(random.Random):
    """Has getrandbits and nothing else: the one method that is the same on every machine."""

    def random(self) -> float:
        raise AssertionError


class Flat(random.Random):
    """Keeps a world in its first two dimensions: the other directions are next to nothing."""

    calls = 0

    def getrandbits(self, k: int, /) -> int:
        self.calls += 1
        bits = super().getrandbits(k)
        return bits if self.calls % DIMENSIONS in (1, 2) else 2**31


class Scripted(random.Random):
    """Hands out the words of a vector."""

    words: tuple[int, ...] = ()

    def getrandbits(self, k: int, /) -> int:
        assert k == 32
        word, *rest = self.words
        self.words = tuple(rest)
        return word


def node(index: int) -> NodeId:
    """A stand-in for the key of the node with this number."""
    return NodeId(index.to_bytes(32, "big"))


def at(*places: int, height: int = HEIGHT_NS_MIN, adjustment: int = 0) -> Coordinate:
    """A sure coordinate with these first items."""
    vector = (*places, *(0,) * (DIMENSIONS - len(places)))
    return Coordinate(vector=vector, height=height, adjustment=adjustment, error_ppm=ERROR_PPM_MIN)


def truth_of(count: int, round_trip_ns: Callable[[int, int], int]) -> Truth:
    """Symmetric, from a function of (lower, higher) index."""
    return [
        [0 if i == j else round_trip_ns(min(i, j), max(i, j)) for j in range(count)]
        for i in range(count)
    ]


_rng = random.Random(1)
_drawn = {(i, j): int(_rng.gauss(100 * MS, 10 * MS)) for i in range(25) for j in range(i, 25)}

LINE = truth_of(10, lambda i, j: (j - i) * 10 * MS)
GRID = truth_of(
    25, lambda i, j: math.isqrt(((i % 5 - j % 5) ** 2 + (i // 5 - j // 5) ** 2) * 10**14)
)
SPLIT = truth_of(25, lambda i, j: (11 if (i <= 12) != (j <= 12) else 1) * MS)
# 24 nodes on a circle of 100 ms radius, and one that is 200 ms from all.
CIRCLE = truth_of(
    25, lambda i, j: 200 * MS if i == 0 else int(200 * MS * math.sin(math.pi * (j - i) / 25))
)
# No space at all: independent for each pair.
CHANCE = truth_of(25, lambda i, j: _drawn[i, j])
LAN = truth_of(10, lambda _i, _j: 200_000)


def run(
    truth: Truth,
    cycles: int,
    seed: int,
    rng: random.Random,
    mesh: list[Coordinates] | None = None,
    lie: Lie | None = None,
) -> list[Coordinates]:
    """Each node measures a random other one per cycle; with `lie`, node 0 does not tell the truth.

    A liar's own coordinate stands still.
    """
    mesh = mesh if mesh is not None else [Coordinates() for _ in truth]
    pick = random.Random(seed)
    for _ in range(cycles):
        for i in range(1 if lie is not None else 0, len(truth)):
            j = pick.randrange(len(truth))
            if j == i:
                continue
            peer, round_trip_ns = mesh[j].own, truth[i][j]
            if lie is not None and j == 0:
                peer, round_trip_ns = lie(mesh[i].own, round_trip_ns, pick)
            mesh[i].observe(node(j), peer, round_trip_ns, rng)
    return mesh


def errors_of(mesh: list[Coordinates], truth: Truth, first: int = 0) -> tuple[float, float]:
    """Average and greatest relative error over all pairs from index `first` on."""
    errors = [
        abs(mesh[i].own.distance_ns(mesh[j].own) - truth[i][j]) / truth[i][j]
        for i in range(first, len(truth))
        for j in range(i + 1, len(truth))
    ]
    return sum(errors) / len(errors), max(errors)


def length(vector: tuple[int, ...]) -> int:
    """Euclidean, rounded down."""
    return math.isqrt(sum(item * item for item in vector))


@pytest.mark.parametrize(
    ("truth", "average_max", "worst_max"),
    [
        # Serf's own bounds, for one seed: 0.0031 and 0.013. Reached: 0.0057 and 0.030.
        pytest.param(LINE, 0.006, 0.032, id="line"),
        # Serf 0.0016 and 0.023. Reached: 0.0032 and 0.041.
        pytest.param(GRID, 0.004, 0.05, id="grid"),
        # Serf 0.00006 and 0.0005. Reached: 0.0114 and 0.114: the last 0.1 ms come slowly.
        pytest.param(SPLIT, 0.012, 0.15, id="split"),
        # Serf 0.075 and 0.33. Reached: 0.0598 and 0.424.
        pytest.param(CHANCE, 0.075, 0.45, id="chance"),
        # Two of twelve are 100 ms away from ten, and 1 ms from each other. Reached: 0.008, 0.167.
        pytest.param(
            truth_of(12, lambda i, j: (100 if (i < 2) != (j < 2) else 1) * MS),
            0.015,
            0.2,
            id="small site",
        ),
    ],
)
def test_estimates_come_near_the_truth(truth: Truth, average_max: float, worst_max: float) -> None:
    """After 1,000 measurements each, in the worlds of Serf's own tests and one more."""
    average, worst = errors_of(run(truth, 1_000, 1, OnlyBits(1)), truth)
    assert average <= average_max
    assert worst <= worst_max


def test_who_is_far_from_all_stands_high() -> None:
    """In a plane an access link is height: Serf's bounds are 97 and 3 ms, 0.0028 and 0.064."""
    mesh = run(CIRCLE, 1_000, 1, Flat(1))
    heights = [coordinates.own.height for coordinates in mesh]
    assert 95 * MS < heights[0] < 105 * MS
    assert max(heights[1:]) < 5 * MS
    average, worst = errors_of(mesh, CIRCLE)
    assert average <= 0.005
    assert worst <= 0.07


def test_adjustment_takes_up_what_no_space_expresses() -> None:
    """Without it the estimates of a world that is no space would be worse."""
    mesh = run(CHANCE, 300, 1, OnlyBits(1))
    adjusted = errors_of(mesh, CHANCE)[0]
    for coordinates in mesh:
        coordinates.own = dataclasses.replace(coordinates.own, adjustment=0)
    assert adjusted < 0.9 * errors_of(mesh, CHANCE)[0]


@pytest.mark.parametrize("side", [1, -1])
def test_gravity_brings_the_cloud_home(side: int) -> None:
    """Where the estimate is right only gravity pulls: (2 s / 150 s) squared, in seconds."""
    mine, far = Coordinates(), side * 2_000 * MS
    mine.own, peer = at(far), at(far + MS)
    mine.observe(node(1), peer, mine.own.distance_ns(peer), OnlyBits(1))
    assert mine.own == at(far - side * 177_778)


def test_who_moves_arrives_soon() -> None:
    """A node that was 100 ms away joins three at 0.3 ms: half right after 100 measurements."""
    near = truth_of(4, lambda _i, _j: 300_000)
    far = truth_of(4, lambda i, _j: 100 * MS if i == 0 else 300_000)
    rng = OnlyBits(1)
    mesh = run(far, 400, 1, rng)
    assert errors_of(mesh, near)[0] > 100
    run(near, 130, 2, rng, mesh)
    assert errors_of(mesh, near)[0] < 0.5


def far_away(
    _victim: Coordinate, round_trip_ns: int, _rng: random.Random
) -> tuple[Coordinate, int]:
    """A corner of all that is sane, for sure."""
    corner = (POSITION_NS_MAX,) * DIMENSIONS
    return at(*corner, height=POSITION_NS_MAX), round_trip_ns


def anywhere(_victim: Coordinate, round_trip_ns: int, rng: random.Random) -> tuple[Coordinate, int]:
    """Another corner each time."""
    corner = (POSITION_NS_MAX * (1 - 2 * rng.getrandbits(1)) for _ in range(DIMENSIONS))
    return at(*corner, adjustment=ADJUSTMENT_NS_MAX), round_trip_ns


def late(victim: Coordinate, _round_trip_ns: int, _rng: random.Random) -> tuple[Coordinate, int]:
    """I am where you are; and it answers as late as it may."""
    return dataclasses.replace(victim, error_ppm=ERROR_PPM_MIN), ROUND_TRIP_NS_MAX


@pytest.mark.parametrize("lie", [far_away, anywhere, late])
def test_one_liar_in_ten_spoils_nothing(lie: Lie) -> None:
    """On a LAN of 0.2 ms the others' estimates of each other stay within a quarter.

    Plain Vivaldi with the same limits was wrong by a factor of more than 100.
    """
    rng = OnlyBits(1)
    mesh = run(LAN, 200, 1, rng)
    for seed in range(4):
        run(LAN, 60, seed, rng, mesh, lie)
        assert errors_of(mesh, LAN, first=1)[0] < 0.25


coordinates_ = st.builds(
    lambda vector, height, adjustment, error: Coordinate(
        vector=vector, height=height, adjustment=adjustment, error_ppm=error
    ),
    st.tuples(*[st.integers(-POSITION_NS_MAX, POSITION_NS_MAX)] * DIMENSIONS),
    st.integers(HEIGHT_NS_MIN, POSITION_NS_MAX),
    st.integers(-ADJUSTMENT_NS_MAX, ADJUSTMENT_NS_MAX),
    st.integers(ERROR_PPM_MIN, ERROR_PPM_MAX),
)
samples_ = st.lists(
    st.tuples(
        st.integers(0, 3),
        coordinates_ | st.sampled_from([COORDINATE_ORIGIN, at(1_001), at(500)]),
        st.integers(1, ROUND_TRIP_NS_MAX) | st.sampled_from([1, ROUND_TRIP_NS_MAX]),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(coordinates_, samples_)
def test_no_sample_moves_us_beyond_the_bound(
    start: Coordinate, samples: list[tuple[int, Coordinate, int]]
) -> None:
    """Whatever is claimed, we stay sane, and one sample moves us 50 ms and gravity at most."""
    mine, rng = Coordinates(), OnlyBits(1)
    mine.own = start
    for index, peer, round_trip_ns in samples:
        before = mine.own
        mine.observe(node(index), peer, round_trip_ns, rng)
        assert is_sane(mine.own)
        gravity_ns = length(before.vector) ** 2 // (22_000 * 10**9) + DIMENSIONS
        moved = tuple(a - b for a, b in zip(mine.own.vector, before.vector, strict=True))
        assert length(moved) <= DEVIATION_NS_MAX // 4 + gravity_ns
        assert abs(mine.own.height - before.height) <= DEVIATION_NS_MAX // 4
        assert abs(mine.own.error_ppm - before.error_ppm) <= ERROR_PPM_MAX // 4
        estimate_ns = mine.estimate_ns(node(index))
        assert estimate_ns is not None
        assert 0 < estimate_ns < 20 * 10**9


def test_where_estimates_are_good_a_lie_moves_nearly_nothing() -> None:
    """After 20 good samples on a LAN one more can do a quarter of 0.1 ms, and no more."""
    mine, rng = Coordinates(), OnlyBits(1)
    for _ in range(200):
        mine.observe(node(1), at(200_000), 200_000, rng)
    before = mine.own
    mine.observe(node(2), at(0, -POSITION_NS_MAX, height=POSITION_NS_MAX), 10 * MS, rng)
    moved = tuple(a - b for a, b in zip(mine.own.vector, before.vector, strict=True))
    assert 0 < length(moved) <= DEVIATION_NS_SURE // 4 + DIMENSIONS
    assert abs(mine.own.adjustment - before.adjustment) <= DEVIATION_NS_SURE // 20


@pytest.mark.parametrize(
    ("peer", "round_trip_ns"),
    [
        pytest.param(COORDINATE_ORIGIN, 0, id="no time"),
        pytest.param(COORDINATE_ORIGIN, -1, id="before it was asked"),
        pytest.param(COORDINATE_ORIGIN, ROUND_TRIP_NS_MAX + 1, id="over ten seconds"),
        pytest.param(at(POSITION_NS_MAX + 1), MS, id="out of the space"),
    ],
)
def test_what_cannot_be_teaches_nothing(peer: Coordinate, round_trip_ns: int) -> None:
    """Neither where we are nor where the other is."""
    mine = Coordinates()
    mine.observe(node(1), peer, round_trip_ns, OnlyBits(1))
    assert mine.own == COORDINATE_ORIGIN
    assert mine.estimate_ns(node(1)) is None


@pytest.mark.parametrize(
    ("round_trips_ms", "as_good_as_ms"),
    [
        pytest.param((5, 900, 5, 5), (5, 5, 5, 5), id="one late"),
        pytest.param((900, 900, 5), (900, 900, 900), id="two late"),
    ],
)
def test_the_median_of_three_counts(
    round_trips_ms: tuple[int, ...], as_good_as_ms: tuple[int, ...]
) -> None:
    """Of a member's last three round trips; of its first two, the shorter."""
    owns = []
    for samples_ms in (round_trips_ms, as_good_as_ms):
        mine = Coordinates()
        for sample_ms in samples_ms:
            mine.observe(node(1), at(5 * MS), sample_ms * MS, OnlyBits(1))
        owns.append(mine.own)
    assert owns[0] == owns[1]


def test_chance_decides_only_at_one_point() -> None:
    """Two nodes within 1 us part in a direction of chance; else chance is not asked."""
    for peer in (COORDINATE_ORIGIN, at(1_000)):
        first, second = Coordinates(), Coordinates()
        first.observe(node(1), peer, MS, OnlyBits(1))
        second.observe(node(1), peer, MS, OnlyBits(2))
        assert first.own.vector != second.own.vector
        assert length(first.own.vector) > 0.1 * MS
        assert first.own.height == HEIGHT_NS_MIN
    third = Coordinates()
    third.observe(node(1), at(MS), 2 * MS, Scripted())
    assert third.own.vector[0] < 0
    assert third.own.height > HEIGHT_NS_MIN


def test_adjustments_count_only_while_the_result_stays_positive() -> None:
    """As in Serf: a round trip below zero is worse than one without adjustments."""
    here = at(0, adjustment=-MS)
    assert here.distance_ns(at(3 * MS)) == 2 * MS + 2 * HEIGHT_NS_MIN
    assert here.distance_ns(at(3 * MS, adjustment=-MS)) == MS + 2 * HEIGHT_NS_MIN
    assert here.distance_ns(at(MS // 2)) == MS // 2 + 2 * HEIGHT_NS_MIN
    assert here.distance_ns(at(MS - 2 * HEIGHT_NS_MIN)) == MS


@given(coordinates_, coordinates_)
def test_distance_is_positive_and_the_same_both_ways(one: Coordinate, two: Coordinate) -> None:
    """And it is bounded, so that it fits everywhere."""
    assert 0 < one.distance_ns(two) == two.distance_ns(one) < 20 * 10**9


def test_peers_are_bounded_and_forgotten() -> None:
    """Of too many the one that was measured longest ago goes; whoever left goes at once."""
    mine, rng = Coordinates(), OnlyBits(1)
    for index in range(PEERS_MAX):
        mine.observe(node(index), at(MS), MS, rng)
    for index in (3, 0):
        mine.observe(node(index), at(MS), MS, rng)
        assert all(mine.estimate_ns(node(other)) is not None for other in range(PEERS_MAX))
    mine.observe(node(PEERS_MAX), at(MS), MS, rng)
    assert mine.estimate_ns(node(1)) is None
    for index in (0, 2, PEERS_MAX):
        assert mine.estimate_ns(node(index)) == mine.own.distance_ns(at(MS))
    mine.forget(node(2))
    mine.forget(node(2))
    assert mine.estimate_ns(node(2)) is None


@given(coordinates_)
def test_coding_loses_nothing_and_is_small(coordinate: Coordinate) -> None:
    """At most 56 bytes in an ack; a later version's items behind it are ignored."""
    wire = encode_coordinate(coordinate)
    assert len(wire) == 11
    assert len(pack(wire)) <= 56
    assert decode_coordinate(unpack(pack(wire))) == coordinate
    assert decode_coordinate((*wire, None, "later")) == coordinate


values_ = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=12).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
nearly_ = st.tuples(*[st.integers(-(2**32), 2**32) | values_] * 11)


@given(values_ | nearly_)
def test_any_value_is_a_sane_coordinate_or_refused(value: object) -> None:
    """Decoding raises Refused(MALFORMED) and nothing else."""
    reason = None
    try:
        assert is_sane(decode_coordinate(value))
    except Refused as refused:
        reason = refused.reason
    assert reason in (None, DropReason.MALFORMED)


ABSURD = [
    (0, POSITION_NS_MAX + 1),
    (7, -POSITION_NS_MAX - 1),
    (8, HEIGHT_NS_MIN - 1),
    (8, POSITION_NS_MAX + 1),
    (9, ADJUSTMENT_NS_MAX + 1),
    (9, -ADJUSTMENT_NS_MAX - 1),
    (10, ERROR_PPM_MIN - 1),
    (10, ERROR_PPM_MAX + 1),
    (3, math.nan),
    (3, math.inf),
    (3, 0.0),
    (3, True),
]


@pytest.mark.parametrize(("index", "item"), ABSURD)
def test_an_absurd_item_makes_it_insane(index: int, item: object) -> None:
    """Each bound, and whatever is no integer; decoding and is_sane agree."""
    wire: list[Any] = list(encode_coordinate(at(MS)))
    wire[index] = item
    coordinate = Coordinate(
        vector=tuple(wire[:8]), height=wire[8], adjustment=wire[9], error_ppm=wire[10]
    )
    assert is_sane(at(MS))
    assert not is_sane(coordinate)
    with pytest.raises(Refused, match="malformed"):
        decode_coordinate(tuple(wire))


@pytest.mark.parametrize("dimensions", [0, DIMENSIONS - 1, DIMENSIONS + 1])
def test_another_number_of_dimensions_is_insane(dimensions: int) -> None:
    """Nothing can be measured between spaces."""
    assert not is_sane(dataclasses.replace(at(), vector=(0,) * dimensions))


def test_two_runs_are_the_same() -> None:
    """One seed, one result, to the last nanosecond."""
    one, two = (run(CHANCE, 50, 7, OnlyBits(7)) for _ in range(2))
    assert [coordinates.own for coordinates in one] == [coordinates.own for coordinates in two]


def script() -> list[tuple[int, Coordinate, int, tuple[int, ...]]]:
    """(peer's number, its coordinate, round trip, random words): good, late and lying peers."""
    rng = random.Random(1)
    nowhere = at(*(POSITION_NS_MAX,) * DIMENSIONS, height=POSITION_NS_MAX)
    words = tuple(rng.getrandbits(32) for _ in range(DIMENSIONS))
    steps = [(1, COORDINATE_ORIGIN, 40 * MS, words), (2, nowhere, 1, ())]
    for index in range(38):
        place = [(30 * MS, -5 * MS, MS), (-20 * MS, 7), (0, 0, 11 * MS, 300_000)][index % 3]
        round_trip_ns = (20 + 7 * (index % 3)) * MS + rng.getrandbits(20)
        is_late = index % 11 == 10
        peer = dataclasses.replace(at(*place), error_ppm=ERROR_PPM_MAX // (index + 1))
        steps.append((3 + index % 3, peer, round_trip_ns * (40 if is_late else 1), ()))
    return [*steps, (2, nowhere, ROUND_TRIP_NS_MAX, ())]


def vectors() -> dict[str, object]:
    """The script with the own coordinate after each step."""
    mine, rng, steps = Coordinates(), Scripted(), []
    for index, peer, round_trip_ns, words in script():
        rng.words = words
        mine.observe(node(index), peer, round_trip_ns, rng)
        assert rng.words == ()
        steps.append(
            {
                "peer": index,
                "peer_coordinate": list(encode_coordinate(peer)),
                "round_trip_ns": round_trip_ns,
                "random_words": list(words),
                "own_after": list(encode_coordinate(mine.own)),
            }
        )
    return {"start": list(encode_coordinate(COORDINATE_ORIGIN)), "steps": steps}


def test_vectors_hold() -> None:
    """Every machine, and every other implementation, comes to these very numbers."""
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == vectors()


if __name__ == "__main__":
    text = json.dumps(vectors()).replace(', {"peer"', ',\n{"peer"')
    VECTORS.write_text(text + "\n", encoding="utf-8")
