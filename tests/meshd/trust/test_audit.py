"""What a daemon notes: sums, bounds, full disks, and heads that are not signed too often."""

import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.audit import QUEUE_MAX, RETRY_S, SUMMED, Audit, note_once
from meshd.trust.audit_check import check, last_lines
from meshd.trust.audit_log import AuditLog
from tests.meshd.trust.audit_homes import OWN, made


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    return made(tmp_path / "home")


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(home: Home, clock: Clock) -> Audit:
    audit = Audit(home, now_s=clock, wall_s=clock)
    audit.open(OWN)
    return audit


def _said(home: Home) -> list[Mapping[str, Any]]:
    """The lines, without what each has."""
    own = ("n", "time", "prev")
    return [
        {name: value for name, value in line.items() if name not in own}
        for line in last_lines(home, 10_000)
    ]


def _has_lines(home: Home, count: int) -> bool:
    return home.audit.exists() and check(home, OWN.node_id).lines == count


async def _until(condition: Callable[[], bool]) -> None:
    """Until a thread has brought this about, in real time: the trio clock stands still."""
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        await trio.lowlevel.checkpoint()


def test_what_is_noted_is_in_the_log(home: Home, audit: Audit) -> None:
    """In order, with its fields; what is not known is left out."""
    audit.note("a", x=1, y="two", z=None, ok=True)
    audit.note("b")
    audit.close()
    assert _said(home) == [{"type": "a", "x": 1, "y": "two", "ok": True}, {"type": "b"}]
    assert check(home, OWN.node_id).signed == 2


def test_what_was_noted_before_it_is_open_waits(home: Home) -> None:
    """Joining comes before the key is known; a start that fails leaves no file."""
    audit = Audit(home)
    audit.note("early")
    audit.close()
    assert not home.audit.exists()
    audit.open(OWN)
    audit.close()
    assert _said(home) == [{"type": "early"}]


class _Nasty:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "value",
    ["x" * 9_999, "\ud800", "a\nb\x1b", "\U0001f600" * 999, float("nan"), 2**70, b"\xff", []],
)
def test_any_value_is_a_line(home: Home, audit: Audit, value: object) -> None:
    """Bounded, printable, and read back; all twelve of them, and as a field of the line's own."""
    audit.note("odd", n=value, type=value, prev=value, **{f"f{i}": value for i in range(20)})
    audit.note("even", n=_Nasty())
    audit.close()
    [said] = _said(home)
    assert said["type"] == "odd"
    assert all(len(text) <= 256 and text.isprintable() for text in said.values())
    assert len(home.audit.read_bytes()) < 16_000
    assert check(home, OWN.node_id).lines == 1


# ---- sums ----


def test_a_flood_by_one_is_a_line_a_minute(home: Home, audit: Audit, clock: Clock) -> None:
    """The first at once, then how many there were; when it ends, nothing more."""
    for second in range(600):
        clock.now_s = 1_000.0 + second / 4
        for _ in range(100):
            audit.note("peer.refused", reason="handshake", address="10.0.0.9")
        audit._end_windows(clock.now_s)
    audit.close()
    first, *sums = _said(home)
    assert first == {"type": "peer.refused", "reason": "handshake", "address": "10.0.0.9"}
    assert all(line["within_s"] == 60 for line in sums)
    assert len(sums) == 3
    assert sum(line["count"] for line in sums) == 60_000 - 1


def test_a_flood_by_many_is_summed_too(home: Home, audit: Audit) -> None:
    """So many have lines of their own; the rest are counted together."""
    for number in range(5_000):
        audit.note("join.refused", reason="expired", address=f"10.0.{number >> 8}.{number & 255}")
    audit.close()
    *own, others = _said(home)
    assert len(own) == SUMMED["join.refused"].sources_max
    assert others == {
        "type": "join.refused",
        "sources": "others",
        "count": 5_000 - len(own),
        "within_s": 60,
    }


def test_one_flood_hides_no_other_type(home: Home, audit: Audit) -> None:
    """Each has room of its own."""
    for number in range(5_000):
        audit.note("peer.refused", address=str(number))
    audit.note("join.refused", reason="expired", address="10.0.0.1")
    audit.note("invite.made", invite="x")
    audit.close()
    assert {"join.refused", "invite.made"} <= {line["type"] for line in _said(home)}


def test_the_use_of_a_key_is_a_line_an_hour(home: Home, audit: Audit, clock: Clock) -> None:
    """Its first use, then sums."""
    for minute in range(130):
        clock.now_s = 1_000.0 + 60 * minute
        audit._end_windows(clock.now_s)
        audit.note("key.used", key="laptop")
    audit.close()
    assert [line.get("count") for line in _said(home)] == [None, 59, 60, 10]


# ---- writing ----


def test_lines_are_written_at_once_and_signed_every_second(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storm of events costs a signature a second."""
    heads: list[float] = []
    real = AuditLog.sign

    def counting(log: AuditLog) -> None:
        heads.append(trio_clock.current_time())
        real(log)

    monkeypatch.setattr(AuditLog, "sign", counting)
    trio_clock = MockClock()

    async def main() -> None:
        audit = Audit(home, now_s=trio.current_time)
        audit.open(OWN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            for number in range(100):
                audit.note("storm", number=number)
                await _until(functools.partial(_has_lines, home, number + 1))
                trio_clock.jump(0.025)
            trio_clock.jump(2.0)
            await _until(lambda: check(home, OWN.node_id).signed == 100)
            before = len(heads)
            trio_clock.jump(100.0)
            await wait_all_tasks_blocked()
            assert len(heads) == before, "nothing to sign, and signed"
            nursery.cancel_scope.cancel()
        audit.close()

    trio.run(main, clock=trio_clock)
    assert 2 <= len(heads) <= 5
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(heads))


def test_sums_come_when_their_time_is_over(home: Home) -> None:
    """By themselves, without another event."""
    trio_clock = MockClock()

    async def main() -> None:
        audit = Audit(home, now_s=trio.current_time)
        audit.open(OWN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            for _ in range(3):
                audit.note("join.refused", reason="expired")
            await wait_all_tasks_blocked()
            trio_clock.jump(61.0)
            await _until(lambda: len(_said(home)) == 2)
            nursery.cancel_scope.cancel()
        audit.close()

    trio.run(main, clock=trio_clock)
    assert _said(home)[1]["count"] == 2


class FullDisk:
    """Every write fails while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        for owner, call in ((AuditLog, "append"), (AuditLog, "sign")):
            monkeypatch.setattr(owner, call, self._failing(getattr(owner, call)))

    def _failing(self, real: Any) -> Any:  # noqa: ANN401  # either of two methods
        def call(*arguments: object) -> None:
            if self.is_full:
                raise OSError(28, "No space left on device")
            real(*arguments)

        return call


def test_a_full_disk_is_lived_with_and_its_gap_is_visible(
    home: Home, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the queue can hold comes later; what it cannot is counted, in a line of its own."""
    disk = FullDisk(monkeypatch)
    for number in range(QUEUE_MAX + 500):
        audit.note("many", number=number)
        if number % 100 == 0:
            audit.flush()
    audit.flush()
    disk.is_full = False
    audit.note("after")
    audit.close()
    said = _said(home)
    assert [line["number"] for line in said[:QUEUE_MAX]] == list(range(QUEUE_MAX))
    assert said[QUEUE_MAX:] == [{"type": "audit.lost", "count": 501, "since": 1_000.0}]
    assert check(home, OWN.node_id).signed == QUEUE_MAX + 1


def test_a_disk_with_room_again_is_found_by_itself(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause, and not at every event."""
    disk = FullDisk(monkeypatch)
    trio_clock = MockClock()

    async def main() -> None:
        audit = Audit(home, now_s=trio.current_time)
        audit.open(OWN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            audit.note("waits")
            await _until(lambda: bool(audit._reason))
            disk.is_full = False
            audit.note("waits too")
            await wait_all_tasks_blocked()
            assert _said(home) == []
            trio_clock.jump(RETRY_S + 0.1)
            await _until(lambda: len(_said(home)) == 2)
            nursery.cancel_scope.cancel()
        audit.close()

    trio.run(main, clock=trio_clock)
    assert [line["type"] for line in _said(home)] == ["waits", "waits too"]


def test_a_log_that_cannot_be_opened_is_lived_with(home: Home, audit: Audit) -> None:
    """A folder is in its place: said in the daemon's log, and nothing else."""
    home.audit.mkdir()
    audit.note("lost")
    audit.close()
    with pytest.raises(UserError, match="Is a directory"):
        check(home, None)


def test_a_command_without_a_daemon_notes_too(home: Home) -> None:
    """And signs at once."""
    note_once(home, OWN, "mesh.joined", mesh="m")
    note_once(home, OWN, "mesh.left", mesh="m")
    assert [line["type"] for line in _said(home)] == ["mesh.joined", "mesh.left"]
    assert check(home, OWN.node_id).signed == 2
