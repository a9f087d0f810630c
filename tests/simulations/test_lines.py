"""What access lines carry."""

from protocol.config import MILLISECOND, SECOND
from simulations.lines import Line


def test_an_unlimited_line_takes_no_time() -> None:
    """Whatever comes."""
    line = Line(0, 100)
    assert line.datagram(10**9, 0) == line.stream(10**9, 0, 0) == 0


def test_bytes_wait_for_those_before_them() -> None:
    """1,000 bytes a second: each hundred bytes take 100 ms, and an idle line is free again."""
    line = Line(1_000, 1_000)
    assert line.datagram(100, 0) == 100 * MILLISECOND
    assert line.datagram(100, 0) == 200 * MILLISECOND
    assert line.datagram(100, 150 * MILLISECOND) == 150 * MILLISECOND
    assert line.datagram(100, 5 * SECOND) == 100 * MILLISECOND


def test_a_full_queue_loses_datagrams_but_not_streams() -> None:
    """Until there is room again."""
    line = Line(1_000, 500)
    assert line.stream(450, 0, SECOND) == 450 * MILLISECOND
    assert line.datagram(100, 0) is None
    assert line.datagram(50, 0) == 500 * MILLISECOND
    assert line.stream(1_000, 0, SECOND) == 1_500 * MILLISECOND
    assert line.stream(1_000, 0, SECOND) is None, "it would wait for too long"
    assert line.datagram(100, SECOND) is None
    assert line.datagram(100, 1_400 * MILLISECOND) == 200 * MILLISECOND
