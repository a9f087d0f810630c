"""How long messages are on their way: distributions, regions, matrices."""

import pathlib
import random

import pytest

from protocol.config import MILLISECOND
from simulations.latency import DRAW_BITS, MatrixError, Path, Regions, even, read_matrix, tailed


def test_an_even_delay_is_within_its_bounds_and_even() -> None:
    """Every draw; the mean is the middle."""
    rng = random.Random(1)
    drawn = [even(2_000, 4_000).at(rng.getrandbits(DRAW_BITS)) for _ in range(20_000)]
    assert 2_000 <= min(drawn) <= max(drawn) < 4_000
    assert sum(drawn) / len(drawn) == pytest.approx(3_000, rel=0.01)


def test_a_tail_has_its_quantiles() -> None:
    """Half, 99 % and all of what is drawn lie where they were said to lie."""
    delay = tailed(1_000, 3_000, 60_000, 400_000)
    rng = random.Random(1)
    drawn = sorted(delay.at(rng.getrandbits(DRAW_BITS)) for _ in range(50_000))
    assert delay.least_ns == 1_000 <= drawn[0]
    assert drawn[len(drawn) // 2] == pytest.approx(3_000, rel=0.02)
    assert drawn[len(drawn) * 99 // 100] == pytest.approx(60_000, rel=0.2)
    assert drawn[-1] <= 400_000
    assert delay.at((1 << DRAW_BITS) - 1) <= 400_000


def test_regions_share_the_hosts_out() -> None:
    """By weight, in order, none left over."""
    regions = Regions(("east", "west"), (2, 1), {(0, 1): Path(even(5, 6))})
    assert regions.members(9) == {"east": [0, 1, 2, 3, 4, 5], "west": [6, 7, 8]}
    assert sum(map(len, regions.members(10).values())) == 10
    assert regions.path(0, 1) is regions.path(1, 0) is not None
    assert regions.path(0, 0) is None


def test_a_matrix_is_read(tmp_path: pathlib.Path) -> None:
    """Round trips are halved, one way not; names come from the file."""
    file = tmp_path / "m.csv"
    file.write_text("rtt ms,fra,nyc\nfra,1,80\nnyc,84,2\n")
    regions = read_matrix(file, is_round_trip=True, jitter_ppm=100_000)
    assert regions.names == ("fra", "nyc")
    assert regions.path(0, 1) == Path(even(40 * MILLISECOND, 44 * MILLISECOND))
    assert regions.path(1, 0) == Path(even(42 * MILLISECOND, 46_200_000))
    one_way = read_matrix(file, is_round_trip=False, jitter_ppm=0).path(0, 1)
    assert one_way == Path(even(80 * MILLISECOND, 80 * MILLISECOND))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name 1 to"),
        (",a,a\na,1,1\na,1,1\n", "must name 1 to"),
        (",a,b\nb,1,1\na,1,1\n", "same order"),
        (",a,b\na,1\nb,1,1\n", "must have 2 figures"),
        (",a\na,soon\n", "'soon' in row 'a'"),
        (",a\na,-1\n", "'-1' in row 'a'"),
        (",a\na,nan\n", "'nan' in row 'a'"),
        (',a\na,"1\n', "is not CSV"),
    ],
)
def test_a_bad_matrix_is_one_line(tmp_path: pathlib.Path, text: str, said: str) -> None:
    """That names the file and the place."""
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(MatrixError, match=said) as caught:
        read_matrix(file, is_round_trip=True, jitter_ppm=0)
    assert "\n" not in str(caught.value)


def test_a_matrix_that_cannot_be_read_is_one_line(tmp_path: pathlib.Path) -> None:
    """Missing, or not text."""
    with pytest.raises(MatrixError, match="cannot read"):
        read_matrix(tmp_path / "no.csv", is_round_trip=True, jitter_ppm=0)
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(MatrixError, match="UTF-8"):
        read_matrix(tmp_path / "m.csv", is_round_trip=True, jitter_ppm=0)
