"""The table of jobs: what is kept, for how many, and what a restart makes of it."""

import json
import pathlib

import pytest
import trio

from meshd.failures import UserError
from meshd.home import Home
from meshd.tasks import jobs as jobs_module
from meshd.tasks.jobs import Job, Jobs, JobState


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """An empty home."""
    home = Home(tmp_path / "home")
    home.create()
    return home


def job(name: str) -> Job:
    """A job that is queued, submitted in the order of names."""
    return Job(id=name, descriptor={"function": "f"}, submitted_at=f"2026-01-01T{name}")


async def done(table: Jobs, name: str, result: object = None) -> None:
    """A job from its start to its end."""
    one = job(name)
    await table.add(one)
    one.begin_attempt("anna", "id")
    one.result, one.log = result, ("a line",)
    one.end(JobState.DONE)
    await table.finish(one)


def test_results_survive_a_restart(home: Home) -> None:
    """All of a job is on disk; a list shows it without the result."""

    async def main() -> None:
        table = Jobs(home)
        await table.load()
        await done(table, "a", {"x": [1, None]})
        await done(table, "b", None)
        for again in (table, Jobs(home)):
            await again.load()
            details = await again.details("a")
            assert details["result"] == {"x": [1, None]}
            assert details["log"] in (("a line",), ["a line"])
            assert details["attempts"][0]["state"] == "done"
            rows = again.rows()
            assert [row["id"] for row in rows] == ["b", "a"]
            assert "result" not in rows[0]

    trio.run(main)


def test_what_ran_when_the_daemon_stopped_has_failed(home: Home) -> None:
    """It is not known what became of it, and that is said; on disk too."""

    async def main() -> None:
        table = Jobs(home)
        running = job("a")
        await table.add(running)
        again = Jobs(home)
        await again.load()
        assert again.row("a")["state"] == "failed"
        assert again.row("a")["error"]["message"] == "the daemon stopped"
        on_disk = json.loads((home.jobs / "a.json").read_bytes())
        assert (on_disk["state"], on_disk["finished_at"] is None) == ("failed", False)

    trio.run(main)


def test_an_id_is_used_once(home: Home) -> None:
    """Also by a job that is over, and whatever the case of its letters."""

    async def main() -> None:
        table = Jobs(home)
        await table.add(job("a"))
        await done(table, "b")
        for name in ("a", "A", "B"):
            with pytest.raises(UserError, match="already"):
                await table.add(job(name))

    trio.run(main)


def test_only_the_newest_are_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory and on disk; those that are not over are never forgotten."""
    monkeypatch.setattr(jobs_module, "JOBS_MAX", 3)

    async def main() -> None:
        table = Jobs(home)
        await table.add(job("a"))
        for name in "bcde":
            await done(table, name)
        assert {row["id"] for row in table.rows()} == {"a", "d", "e"}
        assert {path.stem for path in home.jobs.iterdir()} == {"a", "d", "e"}
        with pytest.raises(UserError, match="no job"):
            await table.details("b")

    trio.run(main)


def test_too_many_at_once_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on what is not over has its own error."""
    monkeypatch.setattr(jobs_module, "LIVE_MAX", 1)

    async def main() -> None:
        table = Jobs(home)
        await table.add(job("a"))
        with pytest.raises(UserError, match="not over yet"):
            await table.add(job("b"))

    trio.run(main)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(job("other").to_json()).encode(),
        json.dumps({**job("bad").to_json(), "state": "odd"}).encode(),
        json.dumps({**job("bad").to_json(), "descriptor": 1}).encode(),
        json.dumps({**job("bad").to_json(), "attempts": 1}).encode(),
        json.dumps({**job("bad").to_json(), "attempts": [{}]}).encode(),
        json.dumps({**job("bad").to_json(), "more": 1}).encode(),
    ],
)
def test_a_mangled_file_is_left_alone(home: Home, content: bytes) -> None:
    """It is no job; the others are there, and the file stays for whoever mends it."""

    async def main() -> None:
        await done(Jobs(home), "a")
        (home.jobs / "bad.json").write_bytes(content)
        table = Jobs(home)
        await table.load()
        assert [row["id"] for row in table.rows()] == ["a"]
        assert (home.jobs / "bad.json").read_bytes() == content

    trio.run(main)


def test_a_full_disk_does_not_lose_the_job(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is said; the job still comes to its end."""

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        table = Jobs(home)
        monkeypatch.setattr(home, "write", refuse)
        await done(table, "a", 1)
        assert table.row("a")["state"] == "done"
        with pytest.raises(UserError, match="cannot read"):
            await table.details("a")

    trio.run(main)
