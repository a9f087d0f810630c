"""What a running node writes down: numbers that never fall, and whom it knew."""

import os
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshd import clock
from meshd.home import Home
from meshd.persistence import (
    Numbers,
    next_boot,
    read_numbers,
    read_snapshot,
    write_numbers,
    write_snapshot,
)
from protocol.fields import pack
from protocol.snapshot import Snapshot, encode_snapshot

any_number = st.integers(0, 2**64 - 1)
with_one_home = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


@with_one_home
@given(st.builds(Numbers, any_number, any_number, any_number))
def test_numbers_survive(home: Home, numbers: Numbers) -> None:
    """Written and read back, they are the same."""
    write_numbers(home, numbers)
    assert read_numbers(home) == numbers


@with_one_home
@given(st.binary(max_size=100))
def test_damaged_files_begin_from_nothing(home: Home, data: bytes) -> None:
    """Peers give the numbers back, and searching finds the members: no reason not to start."""
    home.numbers.write_bytes(data)
    home.members.write_bytes(data)
    read_numbers(home)
    assert read_snapshot(home) == Snapshot()


def test_absent_files_begin_from_nothing(home: Home) -> None:
    """A new home."""
    assert read_numbers(home) == Numbers()
    assert read_snapshot(home) == Snapshot()


def test_numbers_out_of_range_count_as_lost(home: Home) -> None:
    """A negative number or a text cannot have been ours."""
    for value in ((-1, 0, 0), ("a", 0, 0), (0, 0), 7):
        home.numbers.write_bytes(pack(value))
        assert read_numbers(home) == Numbers()


def test_each_start_is_above_the_one_before(home: Home) -> None:
    """Also within one second, and the other numbers stay; it is on disk at once."""
    write_numbers(home, Numbers(7, 8, 0))
    last = 0
    for _ in range(20):
        numbers = next_boot(home)
        assert numbers.boot >> 24 > last >> 24
        assert (numbers.incarnation, numbers.offers_version) == (7, 8)
        assert read_numbers(home) == numbers
        last = numbers.boot


@pytest.mark.parametrize("wall_s", [0, 1_000, 2**39])
def test_a_boot_never_falls_whatever_the_wall_clock_does(
    home: Home, monkeypatch: pytest.MonkeyPatch, wall_s: int
) -> None:
    """Back to 1970 or far ahead: the next boot is above the last one, and fits 64 bits."""
    before = next_boot(home)
    monkeypatch.setattr(clock, "wall_s", lambda: wall_s)
    assert before.boot < next_boot(home).boot < 2**64


def test_a_home_from_a_backup_does_not_fall_behind(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boots that it had after the backup are below its next one, for the wall clock went on."""
    next_boot(home)
    backup = home.numbers.read_bytes()
    boots = [next_boot(home).boot for _ in range(50)]
    home.numbers.write_bytes(backup)
    now = clock.wall_s()
    monkeypatch.setattr(clock, "wall_s", lambda: now + 60)
    assert next_boot(home).boot > max(boots)


def test_a_snapshot_survives(home: Home) -> None:
    """Everything of it."""
    snapshot = Snapshot((b"r",), (b"l",), (b"g",), ())
    write_snapshot(home, snapshot)
    assert read_snapshot(home) == snapshot
    assert home.members.read_bytes() == encode_snapshot(snapshot)


@pytest.mark.parametrize(
    "write",
    [
        lambda home: write_numbers(home, Numbers(2, 2, 2)),
        lambda home: write_snapshot(home, Snapshot((b"new",))),
    ],
)
def test_a_full_disk_is_survived(
    home: Home, monkeypatch: pytest.MonkeyPatch, write: Callable[[Home], None]
) -> None:
    """The old content stands and the daemon goes on."""
    write_numbers(home, Numbers(1, 1, 1))
    write_snapshot(home, Snapshot((b"old",)))

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    write(home)
    assert read_numbers(home) == Numbers(1, 1, 1)
    assert read_snapshot(home) == Snapshot((b"old",))
