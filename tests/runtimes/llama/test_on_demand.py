"""Real models that are loaded when somebody asks, and leave for one another."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from runtimes.base import Chunk, ModelCard, RuntimeFailure
from runtimes.llama import runtime as runtime_module
from runtimes.llama.files import known_file
from runtimes.llama.files.adapter import whole_hash
from runtimes.llama.files.hash_cache import HashCache
from runtimes.llama.files.model_file import content_hash
from runtimes.llama.files.prospect import look
from runtimes.llama.link import WorkerEnd, WorkerLink
from runtimes.llama.residence import Residence
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from runtimes.model_memory import ModelMemory
from runtimes.standing import ModelState
from runtimes.worker.restart_delay import RestartDelay
from tests.runtimes.serving import (
    TIMEOUT_S,
    Completion,
    ask,
    complete,
    needs_llama,
    wait_until,
)

pytestmark = [pytest.mark.llama, needs_llama]


class Pair:
    """Two copies of a model, `warm` and `cold`, and memory for one of them."""

    def __init__(self, model: pathlib.Path, folder: pathlib.Path, **of_warm: str) -> None:
        self.hashes = HashCache(folder / "cache" / "hashes.json")
        self.warm = self._make(model, folder / "warm.gguf", of_warm)
        self.cold = self._make(model, folder / "cold.gguf", {})
        self.other = ModelState.UNUSABLE if "pin" in of_warm else ModelState.COLD
        """What becomes of the second one."""
        self.limit_bytes = 3 * look(read_settings(str(model), {}), None).need.memory_bytes // 2

    def _make(
        self, model: pathlib.Path, path: pathlib.Path, options: dict[str, str]
    ) -> LlamaRuntime:
        if not path.exists():
            shutil.copyfile(model, path)
        return LlamaRuntime(read_settings(str(path), options), hashes=self.hashes)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Both are served; the first one is loaded, the other one known."""
        memory = ModelMemory(self.limit_bytes)
        for each in (self.warm, self.cold):
            each.use_memory(memory)
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for each in (self.warm, self.cold):
                    nursery.start_soon(each.serve, lambda: None)
                await wait_until(lambda: self.states == ("ready", self.other))
                await wait_until(lambda: self.other != "cold" or self.cold.card is not None)
                yield
                nursery.cancel_scope.cancel()

    @property
    def states(self) -> tuple[str, ...]:
        """How both are doing."""
        standings = (self.warm.standing, self.cold.standing)
        return tuple("" if each is None else str(each.state) for each in standings)


@pytest.fixture
def pair(random_model: pathlib.Path, tmp_path: pathlib.Path) -> Pair:
    """Nothing is served yet."""
    return Pair(random_model, tmp_path)


def test_a_request_for_a_cold_model_has_it_loaded_in_place_of_an_idle_one(pair: Pair) -> None:
    """And back again. Each is offered all the time, with how long it takes until it is there."""

    async def main() -> None:
        async with pair.served():
            first = await complete(pair.warm, ask(8))
            assert pair.cold.card is not None
            assert pair.cold.card.load_ms > 0
            second = await complete(pair.cold, ask(8))
            assert second.ids == first.ids
            assert pair.states == ("cold", "ready")
            assert pair.warm.worker_pid is None
            assert pair.warm.card is not None
            assert pair.warm.card.load_ms > 0
            assert pair.cold.card.load_ms == 0
            assert (await complete(pair.warm, ask(8))).ids == first.ids

    trio.run(main)


def test_a_cold_model_is_offered_as_what_it_will_be(pair: Pair) -> None:
    """What its file says is what llama.cpp says of it, name and identity included."""

    async def main() -> None:
        async with pair.served():
            warm, cold = pair.warm.card, pair.cold.card
            assert isinstance(warm, ModelCard)
            assert isinstance(cold, ModelCard)
            assert dataclasses.replace(cold, name="warm", load_ms=0) == warm
            assert cold.content_hash == content_hash(pair.cold._settings.path)

    trio.run(main)


def test_who_answers_stays_and_who_came_for_the_other_waits(pair: Pair) -> None:
    """The answer that ran is whole, and then it goes."""

    async def main() -> None:
        async with pair.served(), trio.open_nursery() as nursery:
            tokens = 0
            others: list[Completion] = []

            async def other() -> None:
                others.append(await complete(pair.cold, ask(4)))

            async with contextlib.aclosing(pair.warm.generate(ask(200))) as events:
                async for event in events:
                    if not tokens:
                        nursery.start_soon(other)
                    tokens += len(event.token_ids) if isinstance(event, Chunk) else 0
                    assert (pair.states[0], others) == ("ready", [])
            assert tokens == 200
            await wait_until(lambda: others != [])
            assert len(others[0].ids) == 4
            assert pair.states == ("cold", "ready")

    trio.run(main)


def test_a_model_that_is_never_idle_makes_way(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on it ends whole, nothing new begins before the other one has had its turn, and
    then it comes again for those who wait: nobody is refused.
    """
    monkeypatch.setattr("runtimes.model_memory.TURN_S", 0.0)
    order: list[str] = []

    async def main() -> None:
        async with pair.served():
            has_had_turn = False

            async def crowd() -> None:
                is_last = False
                while not is_last:
                    is_last = has_had_turn
                    answer = await complete(pair.warm, ask(600))
                    assert len(answer.ids) == 600
                    order.append("warm")

            async def look_often() -> None:
                home = pair.warm._residence
                await wait_until(lambda: home.is_making_way)
                assert pair.warm.load.running > 0
                home.memory.changed()

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(crowd)
                await wait_until(lambda: pair.warm.load.running == 2)
                nursery.start_soon(look_often)
                pair.warm._residence.turn_until = trio.current_time()
                assert len((await complete(pair.cold, ask(4))).ids) == 4
                order.append("cold")
                has_had_turn = True
            assert order.index("cold") >= 2
            assert len(order) - order.index("cold") > 2

    trio.run(main)


def test_who_is_waited_for_stays(pair: Pair) -> None:
    """Also while nothing runs: who wants the other waits, and who only looks in is not waited for,
    and is told why.
    """

    async def main() -> None:
        async with pair.served():
            with pair.warm.wanted():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(complete, pair.cold, ask(4))
                    await wait_until(lambda: "warm cannot leave" in str(pair.cold.standing))
                    assert pair.states == ("ready", "loading")
                    nursery.cancel_scope.cancel()
                await wait_until(lambda: pair.states == ("ready", "cold"))
                assert pair.cold.standing is not None
                assert "warm cannot leave" in pair.cold.standing.reason
            assert len((await complete(pair.cold, ask(4))).ids) == 4

    trio.run(main)


def test_who_is_asked_for_while_it_leaves_comes_back(pair: Pair) -> None:
    """It is cold as soon as it is to leave, then loading: nobody is refused in between."""

    async def main() -> None:
        async with pair.served(), trio.open_nursery() as nursery:
            home = pair.warm._residence
            nursery.start_soon(home.unload)
            while not home.is_leaving:
                await trio.lowlevel.checkpoint()
            assert pair.states[0] == ModelState.COLD
            assert pair.warm.card is not None
            with pair.warm.wanted():
                assert pair.states[0] == ModelState.LOADING
                assert len((await complete(pair.warm, ask(4))).ids) == 4

    trio.run(main)


def test_both_are_answered_when_both_are_wanted(pair: Pair) -> None:
    """One after the other, whoever leaves for whom at the moment."""

    async def main() -> None:
        async with pair.served(), trio.open_nursery() as nursery:
            for model in 3 * (pair.cold, pair.warm):
                nursery.start_soon(complete, model, ask(4))

    trio.run(main)


def test_a_pinned_model_stays(random_model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """However long it has been idle; what has no room beside it cannot be had."""
    pair = Pair(random_model, tmp_path, pin="1", keep_alive="0")

    async def main() -> None:
        async with pair.served():
            await complete(pair.warm, ask(2))
            with pytest.raises(RuntimeFailure, match="can be had"):
                await complete(pair.cold, ask(4))
            assert pair.states == ("ready", "unusable")

    trio.run(main)


def test_a_model_leaves_when_it_was_idle_for_long_enough(
    random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """With no patience at all: as soon as its answer has ended; the next request has it back."""
    pair = Pair(random_model, tmp_path, keep_alive="0")
    pair.limit_bytes *= 2

    async def main() -> None:
        memory = ModelMemory(pair.limit_bytes)
        pair.warm.use_memory(memory)
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.warm.serve, lambda: None)
                await wait_until(lambda: pair.states[0] == "cold")
                answers = [await complete(pair.warm, ask(5))]
                await wait_until(lambda: pair.warm.worker_pid is None)
                assert pair.states[0] == "cold"
                answers.append(await complete(pair.warm, ask(5)))
                assert answers[0].ids == answers[1].ids
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_worker_that_is_killed_while_it_loads_costs_no_request(pair: Pair) -> None:
    """kill -9: another worker loads it, and who waits is answered."""

    async def main() -> None:
        async with pair.served(), trio.open_nursery() as nursery:

            async def kill() -> None:
                await wait_until(lambda: pair.cold.worker_pid is not None)
                assert pair.states[1] == ModelState.LOADING
                assert pair.cold.worker_pid is not None
                os.kill(pair.cold.worker_pid, signal.SIGKILL)

            nursery.start_soon(kill)
            assert len((await complete(pair.cold, ask(4))).ids) == 4

    trio.run(main)


def test_a_model_that_cannot_fit_is_not_offered(pair: Pair) -> None:
    """It says what it needs and what there is, and a request is refused with that."""
    pair.limit_bytes = 10_000_000

    async def main() -> None:
        memory = ModelMemory(pair.limit_bytes)
        pair.cold.use_memory(memory)
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.cold.serve, lambda: None)
                await wait_until(lambda: pair.states[1] == ModelState.UNUSABLE)
                assert pair.cold.card is None
                assert pair.cold.standing is not None
                assert "and 10 MB can be had" in pair.cold.standing.reason
                with pytest.raises(RuntimeFailure, match="10 MB can be had"):
                    await complete(pair.cold, ask(4))
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_file_that_was_exchanged_is_another_model(pair: Pair) -> None:
    """It is looked at anew when it is loaded."""

    async def main() -> None:
        async with pair.served():
            assert pair.cold.card is not None
            before = pair.cold.card.content_hash
            path = pair.cold._settings.path
            path.write_bytes(path.read_bytes() + bytes(32))
            await complete(pair.cold, ask(2))
            assert pair.cold.card.content_hash == content_hash(path) != before

    trio.run(main)


def test_what_was_read_once_is_not_read_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """After a restart hashes come from the cache, that of the loaded model, too."""

    async def main(pair: Pair) -> list[ModelCard | None]:
        async with pair.served():
            prospect = pair.warm._file.prospect
            assert prospect is not None
            await wait_until(lambda: pair.hashes.find(prospect.identity) is not None)
            return [pair.warm.card, pair.cold.card]

    cards = trio.run(main, pair)

    def must_not_be_read(*files: object) -> str:
        raise AssertionError(files)

    monkeypatch.setattr(known_file, "whole_hash", must_not_be_read)
    assert trio.run(main, Pair(random_model, tmp_path)) == cards


def test_a_file_that_was_exchanged_while_it_was_loaded_is_another_model(pair: Pair) -> None:
    """Its worker is killed: the next one loads the new weights, under their own hash."""

    async def main() -> None:
        async with pair.served():
            assert pair.warm.card is not None
            assert pair.warm.worker_pid is not None
            before, path, pid = pair.warm.card.content_hash, pair.warm._settings.path, 0
            new = path.with_suffix(".new")
            new.write_bytes(path.read_bytes() + bytes(32))
            os.replace(new, path)
            pid = pair.warm.worker_pid
            os.kill(pid, signal.SIGKILL)
            await wait_until(lambda: pair.warm.worker_pid not in (None, pid))
            await wait_until(lambda: pair.states[0] == "ready")
            assert pair.warm.card.content_hash == content_hash(path) != before

    trio.run(main)


class NoMemory(WorkerLink):
    """A worker that finds no memory for the model `cold`."""

    tries = 0

    async def run(self) -> WorkerEnd:
        """See WorkerLink."""
        if self._settings.name != "cold":
            return await super().run()
        NoMemory.tries += 1
        await trio.lowlevel.checkpoint()
        failure = RuntimeFailure("unavailable", "no memory for it")
        return WorkerEnd(reason="", failure=failure, was_ready=False, returncode=0)


def test_what_cannot_be_loaded_gives_its_room_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again when somebody asks, not for nobody; the other one finds its room."""
    monkeypatch.setattr(runtime_module, "WorkerLink", NoMemory)
    pair.cold._restart_delay = RestartDelay(least_s=0.01, most_s=0.01)

    async def main() -> None:
        async with pair.served():
            tries = NoMemory.tries
            with pytest.raises(RuntimeFailure, match="no memory for it"):
                await complete(pair.cold, ask(4))
            await wait_until(lambda: pair.states[1] == "cold")
            assert pair.cold.standing is not None
            assert pair.cold.standing.reason == "no memory for it"
            assert len((await complete(pair.warm, ask(4))).ids) == 4
            await wait_until(lambda: pair.states == ("ready", "cold"))
            assert NoMemory.tries <= tries + 2

    trio.run(main)


def test_without_a_cache_of_hashes_a_cold_model_keeps_its_hash(
    pair: Pair, tmp_path: pathlib.Path
) -> None:
    """It is offered while it loads, too."""
    (tmp_path / "file").touch()
    pair.warm._file._hashes = pair.cold._file._hashes = HashCache(tmp_path / "file" / "hashes")

    async def main() -> None:
        async with pair.served(), trio.open_nursery() as nursery:
            nursery.start_soon(complete, pair.cold, ask(4))
            await wait_until(lambda: pair.cold.worker_pid is not None)
            assert pair.states[1] == ModelState.LOADING
            assert pair.cold.card is not None
            assert pair.cold.card.content_hash == content_hash(pair.cold._settings.path)

    trio.run(main)


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that is still being written, or cannot be read for a moment."""
    hashed = whole_hash
    paths: list[pathlib.Path] = []

    def disturbed(path: pathlib.Path, *more: object) -> str:
        paths.append(path)
        if len(paths) == 1:
            raise OSError(5, "Input/output error")
        found = hashed(path, *more)  # type: ignore[arg-type]  # as it was called
        if len(paths) == 2:
            os.utime(path)
        return found

    monkeypatch.setattr(known_file, "whole_hash", disturbed)
    monkeypatch.setattr(known_file, "IDENTIFY_S", 0.01)

    async def main() -> None:
        async with pair.served():
            assert pair.cold.card is not None
            assert pair.cold.card.content_hash == content_hash(pair.cold._settings.path)
            assert len(paths) == 3

    trio.run(main)


def test_what_was_loaded_for_one_who_comes_again_waits_for_him(
    random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Though its patience is 0; once it was used, it leaves at once."""
    pair = Pair(random_model, tmp_path, keep_alive="0")

    async def main() -> None:
        pair.warm.use_memory(ModelMemory(pair.limit_bytes))
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.warm.serve, lambda: None)
                await wait_until(lambda: pair.warm.worker_pid is not None)
                await wait_until(lambda: pair.warm.worker_pid is None)
                with pair.warm.wanted():
                    pass
                await wait_until(lambda: pair.states[0] == "ready")
                await trio.testing.wait_all_tasks_blocked()
                assert pair.states[0] == "ready"
                await complete(pair.warm, ask(2))
                await wait_until(lambda: pair.states[0] == "cold")
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_whether_it_fits_is_told_when_that_changes() -> None:
    """Not when only the figures do, every 5 s."""
    told: list[str] = []
    home = Residence(
        read_settings("demo", {}),
        worker_pid=lambda: None,
        is_busy=lambda: False,
        on_change=lambda: told.append(""),
    )
    for why_not in ("", "9.0 GB can be had", "9.1 GB can be had", "", ""):
        home.note_fit(why_not)
    assert len(told) == 2


def test_who_has_made_way_is_refused_to_nobody() -> None:
    """Whose turn it was is no reason any more when it has left, and nobody waits for it."""

    async def main() -> None:
        home = Residence(
            read_settings("demo", {}),
            worker_pid=lambda: None,
            is_busy=lambda: False,
            on_change=lambda: None,
        )

        async def work() -> None:
            home.loaded()
            home.make_way("it is the turn of another")
            await home.unload()

        await home.stay(work)
        assert not home.is_loaded
        assert home.refusal == ""

    trio.run(main)


def test_a_trial_is_disturbed_by_who_comes_and_by_what_is_loaded() -> None:
    """It is begun once more after each."""
    began: list[str] = []

    async def main() -> None:
        home = Residence(
            read_settings("demo", {}),
            worker_pid=lambda: None,
            is_busy=lambda: False,
            on_change=lambda: None,
        )
        home.join(ModelMemory())

        async def measure() -> None:
            began.append("")
            await trio.sleep_forever()

        async def work() -> None:
            home.loaded()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(home.memory.undisturbed, measure)
            await trio.testing.wait_all_tasks_blocked()
            with home.held():
                await trio.testing.wait_all_tasks_blocked()
                assert len(began) == 1
            await trio.testing.wait_all_tasks_blocked()
            assert len(began) == 2
            await home.stay(work)
            await trio.testing.wait_all_tasks_blocked()
            assert len(began) == 3
            nursery.cancel_scope.cancel()

    trio.run(main)
