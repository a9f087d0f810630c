"""The one place for what a running node writes down: its own numbers, and whom it knew.

Own numbers (incarnation, version of offers, boot) are on disk before anything that uses them is
sent. The snapshot of members is written when it changed, at most once a second: losing the last
second costs a little searching after the next start, nothing else.
"""

import dataclasses
import os
import pathlib

import structlog

from meshd import clock
from meshd.home import Home
from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.snapshot import Snapshot, decode_snapshot, encode_snapshot

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """What must never fall."""

    incarnation: int = 0
    offers_version: int = 0
    boot: int = 0


def read_numbers(home: Home) -> Numbers:
    """The numbers of the last run; zeros when lost (peers tell us better ones then)."""
    try:
        fields = unpack_fields(home.numbers.read_bytes())
        return Numbers(*(fields.take_int(0, 2**64 - 1) for _ in range(3)))
    except FileNotFoundError:
        return Numbers()
    except (OSError, Refused) as error:
        log.warning("numbers.unreadable", file=str(home.numbers), reason=str(error))
        return Numbers()


def write_numbers(home: Home, numbers: Numbers) -> None:
    """Durably replace them.

    A disk that is full is said and survived: should the next start then begin with old numbers,
    peers give back the higher ones.
    """
    _write(home, home.numbers, pack(dataclasses.astuple(numbers)))


def next_boot(home: Home) -> Numbers:
    """Count this start: a boot above all earlier ones, with 24 random bits below, on disk.

    The high part follows the wall clock in seconds, so that a home restored from a backup does
    not fall behind the boots that it had after the backup.
    """
    numbers = read_numbers(home)
    high = max((numbers.boot >> 24) + 1, clock.wall_s()) & (2**40 - 1)
    boot = high << 24 | int.from_bytes(os.urandom(3), "big")
    numbers = dataclasses.replace(numbers, boot=boot)
    write_numbers(home, numbers)
    return numbers


def read_snapshot(home: Home) -> Snapshot:
    """The members of the last run; empty when there is nothing readable."""
    try:
        return decode_snapshot(home.members.read_bytes())
    except FileNotFoundError:
        return Snapshot()
    except (OSError, Refused) as error:
        log.warning("members.unreadable", file=str(home.members), reason=str(error))
        return Snapshot()


def write_snapshot(home: Home, snapshot: Snapshot) -> None:
    """Durably replace it; a disk that is full is said and survived."""
    _write(home, home.members, encode_snapshot(snapshot))


def _write(home: Home, path: pathlib.Path, content: bytes) -> None:
    try:
        home.write(path, content)
    except OSError as error:
        log.error("disk.write_failed", file=str(path), reason=error.strerror or str(error))
