"""Numbers for people."""

import pytest

from meshd.cli import units


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        *((0, ""), (1, "1 B"), (999, "999 B"), (1_000, "1.0 kB"), (2_340_000_000, "2.3 GB")),
        *((999_000_000_000, "999 GB"), (5 * 10**15, "5000 TB")),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    """Decimal units, as disks have them; nothing for unknown."""
    assert units.size(size_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, ""), (512, "512"), (5_100_000, "5.1M"), (7_600_000_000, "7.6B")]
)
def test_counts(number: int, text: str) -> None:
    """Parameters as models are named."""
    assert units.count(number) == text


@pytest.mark.parametrize(
    ("time_ms", "text"), [(None, ""), (0, "0.0 ms"), (1.23, "1.2 ms"), (123.4, "123 ms")]
)
def test_milliseconds(time_ms: float | None, text: str) -> None:
    """Tenths below 100; nothing for unknown."""
    assert units.milliseconds(time_ms) == text


@pytest.mark.parametrize(
    ("time_s", "text"), [(0, "0 s"), (119, "119 s"), (180, "3 min"), (18_000, "5.0 h")]
)
def test_seconds(time_s: float, text: str) -> None:
    """The unit grows with the time."""
    assert units.seconds(time_s) == text
