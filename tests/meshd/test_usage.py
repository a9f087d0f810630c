"""Who has used how much: counted, written, kept in bounds, and never in the way."""

import contextlib
import json
import pathlib
import sqlite3
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from meshd import usage as under_test
from meshd.answer import Answer, RequestOptions
from meshd.cli.app import run as command
from meshd.trust.api_keys import KeyPolicy
from meshd.usage import DAYS_KEPT, PENDING_MAX, Row, Usage, _Count, read
from protocol.identity import NodeId, key_text
from runtimes.base import Chunk, Finished, GenerateEvent, Started

DAY_S = 86_400
NOW_S = 20_000 * DAY_S + 5
ANNA = NodeId(b"a" * 32)


def _usage(folder: pathlib.Path, wall_s: int = NOW_S) -> Usage:
    return Usage(folder / "usage.sqlite", lambda: wall_s)


def _read(
    folder: pathlib.Path, days: int = DAYS_KEPT, wall_s: int = NOW_S
) -> list[dict[str, object]]:
    return read(folder / "usage.sqlite", days, wall_s)


def test_counts_are_added_up_over_writes_and_runs(tmp_path: pathlib.Path) -> None:
    """By day, node and model; the file is its owner's only."""
    for _ in range(2):
        usage = _usage(tmp_path)
        for _ in range(3):
            usage.served(ANNA, "m", 10, 5, 0.5)
        usage.served(ANNA, "other", 1, 1, 0.1)
        usage.write()
    [row, other] = _read(tmp_path)
    assert row == {
        "day": "2024-10-04",
        "side": "served",
        "identity": key_text(ANNA),
        "model": "m",
        "requests": 6,
        "prompt_tokens": 60,
        "output_tokens": 30,
        "seconds": 3.0,
    }
    assert other["model"] == "other"
    assert stat.S_IMODE((tmp_path / "usage.sqlite").stat().st_mode) == 0o600


def test_what_was_asked_counts_under_the_key(tmp_path: pathlib.Path) -> None:
    """When the answer is whole; one that broke off was not had."""
    usage = _usage(tmp_path)
    whole: list[GenerateEvent] = [Started((1,)), Chunk((2,), "x"), Finished("stop", 7, 1)]

    @asynccontextmanager
    async def answering(events: list[GenerateEvent]) -> AsyncIterator[Answer]:
        async def given() -> AsyncIterator[GenerateEvent]:
            for event in events:
                await trio.sleep(1)
                yield event

        yield Answer("ab", "anna", "a" * 52, given())

    async def main() -> None:
        options = RequestOptions(request_id="ab", policy=KeyPolicy(name="phone"))
        for events in (whole, whole[:2]):
            async with usage.asking(answering(events), "m", options) as answer:
                assert [event async for event in answer.events] == events

    trio.run(main, clock=MockClock(autojump_threshold=0))
    usage.write()
    [row] = _read(tmp_path)
    assert (row["side"], row["identity"], row["requests"]) == ("asked", "phone", 1)
    assert (row["prompt_tokens"], row["output_tokens"], row["seconds"]) == (7, 1, 3.0)


def test_it_is_written_as_time_goes_and_at_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a crash costs a few seconds, and an orderly stop nothing."""
    usage = _usage(tmp_path)
    save = usage._save

    async def main() -> None:
        saved = trio.Event()

        def save_and_tell(pending: Mapping[Row, _Count]) -> bool:
            is_saved = save(pending)
            with contextlib.suppress(RuntimeError):  # the last one is not in a thread
                trio.from_thread.run_sync(saved.set)
            return is_saved

        monkeypatch.setattr(usage, "_save", save_and_tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(usage.run)
            usage.served(ANNA, "m", 1, 1, 0.0)
            await saved.wait()
            assert _read(tmp_path)[0]["requests"] == 1
            usage.served(ANNA, "m", 1, 1, 0.0)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert _read(tmp_path)[0]["requests"] == 2


def test_old_days_go_and_so_does_what_is_too_much(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year and some is kept; of too many rows the oldest days go."""
    for age in (DAYS_KEPT + 1, DAYS_KEPT - 1, 2, 1, 0):
        usage = _usage(tmp_path, NOW_S - age * DAY_S)
        usage.served(ANNA, "m", 1, 1, 0.0)
        usage.write()
    assert len(_read(tmp_path, 10_000)) == 4
    assert len(_read(tmp_path, 2)) == 2
    monkeypatch.setattr(under_test, "ROWS_MAX", 2)
    usage.served(ANNA, "m", 1, 1, 0.0)
    usage.write()
    assert [row["day"] for row in _read(tmp_path)] == ["2024-10-04", "2024-10-03"]


def test_a_file_that_cannot_be_written_costs_nothing_but_bounded_memory(
    tmp_path: pathlib.Path,
) -> None:
    """The daemon goes on; what was counted is there when it can be written again."""
    (tmp_path / "usage.sqlite").write_bytes(b"no database at all, of some length" * 100)
    usage = _usage(tmp_path)
    usage.served(ANNA, "m", 1, 1, 0.0)
    usage.write()
    usage.served(ANNA, "m", 1, 1, 0.0)
    usage.write()
    for number in range(PENDING_MAX + 10):
        usage.served(ANNA, f"m{number}", 1, 1, 0.0)
    assert len(usage._pending) == PENDING_MAX
    with pytest.raises(sqlite3.Error):
        _read(tmp_path)
    (tmp_path / "usage.sqlite").unlink()
    usage.write()
    [row] = [row for row in _read(tmp_path) if row["model"] == "m"]
    assert row["requests"] == 2


def test_the_command_reads_the_file(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON for programs, a table for people, one line when it is damaged, nothing when there is
    nothing.
    """
    assert command(["usage", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"usage": []}
    usage = Usage(tmp_path / "usage.sqlite")
    usage.served(ANNA, "m", 10, 5, 0.5)
    usage.write()
    assert command(["usage", "--json", "--home", str(tmp_path)]) == 0
    [row] = json.loads(capsys.readouterr().out)["usage"]
    assert (row["identity"], row["output_tokens"]) == (key_text(ANNA), 5)
    assert command(["usage", "--home", str(tmp_path)]) == 0
    assert key_text(ANNA)[:12] in capsys.readouterr().out
    (tmp_path / "usage.sqlite").write_bytes(b"junk" * 1000)
    assert command(["usage", "--home", str(tmp_path)]) == 1
    assert "move it away" in capsys.readouterr().err
