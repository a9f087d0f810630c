"""What is known of a model's files, on disks that do not answer."""

import pathlib
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtimes.llama.files import known_file
from runtimes.llama.files.hash_cache import HashCache
from runtimes.llama.files.known_file import KnownFile
from runtimes.llama.files.speed_cache import SpeedCache
from runtimes.llama.frames import Measure, Measured
from runtimes.llama.settings import read_settings
from runtimes.model_memory import ModelMemory
from runtimes.standing import TokenTimes
from tests.runtimes.serving import TIMEOUT_S, wait_until

HASH = "ab" * 32


class HungDisk:
    """Who asks it waits until the test is over."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.is_over = threading.Event()

    def ask(self, *what: object) -> None:
        """Instead of a call that reads or writes."""
        del what
        self.asked += 1
        self.is_over.wait(TIMEOUT_S / 4)
        self.answered += 1


async def _note_times(file: KnownFile) -> None:
    await file._note_times(TokenTimes(5, 6), lambda: None)


async def _note_hash(file: KnownFile) -> None:
    assert file.prospect is not None
    await file.note_hash(file.prospect, HASH)


async def _is_current(file: KnownFile) -> None:
    await file.is_current(file.prospect)


@pytest.mark.parametrize(
    ("owner", "name", "work"),
    [
        (SpeedCache, "keep", _note_times),
        (SpeedCache, "find", _note_hash),
        (HashCache, "keep", _note_hash),
        (known_file, "file_identity", _is_current),
    ],
)
def test_a_hung_disk_holds_up_nobody_who_leaves(
    random_model: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    work: Callable[[KnownFile], Awaitable[None]],
) -> None:
    """A model that is to leave would else keep its room from all others."""
    disk = HungDisk()

    async def main() -> None:
        settings = read_settings(str(random_model), {})
        hashes, speeds = HashCache(tmp_path / "hashes.json"), SpeedCache(tmp_path / "speeds.json")
        file = KnownFile(settings, hashes, speeds)
        await file.look(None)
        if work is _note_times:
            await file.note_hash(await file.look(None), HASH)
        monkeypatch.setattr(owner, name, disk.ask)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, file)
            await wait_until(lambda: disk.asked == 1)
            nursery.cancel_scope.cancel()
        assert disk.answered == 0

    try:
        trio.run(main)
    finally:
        disk.is_over.set()


def test_a_disturbed_trial_is_made_anew(tmp_path: pathlib.Path) -> None:
    """The worker is told to stop, and when to begin again; what it tells then is known."""
    asked: list[Measure] = []

    async def main() -> None:
        memory = ModelMemory()
        file = KnownFile(read_settings("demo", {}), None, SpeedCache(tmp_path / "speeds.json"))
        told = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.try_out, asked.append, memory, told.set)
            await wait_all_tasks_blocked()
            assert asked == [Measure()]
            memory.disturb()
            await wait_all_tasks_blocked()
            assert asked == [Measure(), Measure(stop=True), Measure()]
            file.note_measured(Measured(prefill_ns=5, decode_ns=6))
            await told.wait()
        assert file.times == TokenTimes(5, 6)
        assert not file.is_trial_due

    trio.run(main)


def test_a_model_whose_speed_cannot_be_told_is_tried_once(tmp_path: pathlib.Path) -> None:
    """Nor is one asked again that says nothing for long."""
    asked: list[Measure] = []

    async def main() -> None:
        for answer in (Measured(), None):
            file = KnownFile(read_settings("demo", {}), None, SpeedCache(tmp_path / "speeds.json"))

            def ask(
                frame: Measure, file: KnownFile = file, answer: Measured | None = answer
            ) -> None:
                asked.append(frame)
                if answer is not None:
                    file.note_measured(answer)

            for _ in range(2):
                await file.try_out(ask, ModelMemory(), lambda: None)
            assert file.times is None
        assert asked == 2 * [Measure(), Measure(stop=True)]

    trio.run(main, clock=MockClock(autojump_threshold=0))
