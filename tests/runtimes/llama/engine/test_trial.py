"""How fast a model is, measured before anybody asks: by what, how long, and at whose cost."""

import contextlib
import itertools
import pathlib

import pytest
import trio

from runtimes import hardware
from runtimes.embedding import EmbedRequest
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.trial import PROMPTS, REQUEST, TOKENS, Trial
from runtimes.llama.files import speed_cache
from runtimes.llama.files.speed_cache import KEEP_S, SpeedCache, _key
from runtimes.llama.frames import Measured
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from runtimes.model_memory import ModelMemory
from runtimes.standing import TokenTimes
from tests.runtimes.llama.engines import Outcomes, generate, make_engine
from tests.runtimes.serving import TIMEOUT_S, ask, complete, needs_llama, serving, wait_until

pytestmark = [pytest.mark.llama, needs_llama]


class Machine:
    """Each decode takes as long here as the test says."""

    def __init__(self, engine: Engine, *decodes_s: float) -> None:
        self._now = 0.0
        self._decodes_s = itertools.chain(decodes_s[:-1], itertools.repeat(decodes_s[-1]))
        self._is_in_decode = False
        self.decodes = 0
        self.trial = Trial(engine, self.clock)

    def clock(self) -> float:
        """Looked at before and after each decode."""
        if self._is_in_decode:
            self._now += next(self._decodes_s)
            self.decodes += 1
        self._is_in_decode = not self._is_in_decode
        return self._now

    def run(self) -> Measured | None:
        """The trial, to its end."""
        results = []
        while not self.trial.is_over:
            results.append(self.trial.step())
        assert results[:-1] == [None] * (len(results) - 1)
        return results[-1]


def test_tokens_and_the_fastest_prompt_are_measured(random_model: pathlib.Path) -> None:
    """Not the first decode, which reads the weights, nor prompts that were disturbed; the engine is
    as new afterwards.
    """
    engine = make_engine(random_model)
    machine = Machine(engine, 9.0, *[0.01] * TOKENS, 0.02, 0.03, 0.9, 0.05, 0.9)
    measured = machine.run()
    assert measured is not None
    assert measured.decode_ns == pytest.approx(0.01e9)
    assert 0.05e9 / (PROMPTS[-1] + 4) < measured.prefill_ns < 0.05e9 / PROMPTS[-1]
    assert machine.decodes == 1 + TOKENS + len(PROMPTS)
    results = []
    for each in (engine, make_engine(random_model)):
        outcomes = Outcomes(each)
        outcomes.open(generate(1, prompt="a"))
        outcomes.finish()
        results.append((outcomes.of[1].ids, outcomes.of[1].ended))
    assert results[0] == results[1], "nothing of the trial is known to it"


def test_a_slow_machine_is_not_held_up(random_model: pathlib.Path) -> None:
    """What would take longer than a second is not tried; without any prompt nothing is told."""
    machine = Machine(make_engine(random_model), 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5)
    measured = machine.run()
    assert measured is not None
    assert machine.decodes == 1 + 5 + 1
    assert measured.prefill_ns > measured.decode_ns / 2
    slower = Machine(make_engine(random_model), 0.2)
    assert slower.run() is None
    assert slower.decodes == 1 + 3


def test_a_short_context_is_no_reason_to_fail(random_model: pathlib.Path) -> None:
    """As many tokens as it has room for."""
    machine = Machine(make_engine(random_model, context_tokens=16), 0.01)
    assert machine.run() is not None
    assert machine.decodes < 1 + 16 + 2


def test_who_gives_up_leaves_nothing(random_model: pathlib.Path) -> None:
    """At any step: all slots are free, and every cell of the KV cache."""
    for steps in (0, 1, 5, TOKENS + 2):
        engine = make_engine(random_model, slots=1)
        free_cells = engine.memory.free_cells
        machine = Machine(engine, 0.001)
        for _ in range(steps):
            assert machine.trial.step() is None
        machine.trial.give_up()
        assert machine.trial.is_over
        assert engine.has_room
        assert engine.memory.free_cells == free_cells
        assert not engine.close(REQUEST)


def test_a_model_is_tried_out_once_and_known_ever_after(
    random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Also by a later daemon, before it has loaded the model; not when it is run in another way."""
    speeds = SpeedCache(tmp_path / "speeds.json")

    def times(runtime: LlamaRuntime) -> TokenTimes | None:
        return runtime.standing.times if runtime.standing is not None else None

    async def main() -> None:
        first = LlamaRuntime(read_settings(str(random_model), {}), speeds=speeds)
        async with serving(first):
            await wait_until(lambda: times(first) is not None)
            assert len((await complete(first, ask(4))).ids) == 4
            known = times(first)
            assert first.card is not None
            content_hash = first.card.content_hash
            await wait_until(lambda: speeds.find(content_hash, first._settings) == known)
        options = {"content_hash": content_hash}
        again = LlamaRuntime(read_settings(str(random_model), options), speeds=speeds)
        await again._look()
        assert again._file.times == known
        assert not again._file.is_trial_due
        other = LlamaRuntime(
            read_settings(str(random_model), {**options, "threads": "3"}), speeds=speeds
        )
        await other._look()
        assert other._file.times is None
        assert other._file.is_trial_due

    async def timed() -> None:
        with trio.fail_after(TIMEOUT_S):
            await main()

    trio.run(timed)


def test_models_that_start_together_are_all_tried_out(
    random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """One after the other; what embeds is asked too, has no such speed, and works on."""
    import gguf

    from tests.helpers.embedding_models import write_bert

    bert = tmp_path / "bert.gguf"
    write_bert(bert, gguf.PoolingType.MEAN)

    async def main() -> None:
        memory, speeds = ModelMemory(), SpeedCache(tmp_path / "speeds.json")
        paths = [(bert, "bert"), (random_model, "first"), (random_model, "second")]
        models = [
            LlamaRuntime(read_settings(str(path), {"name": name}), speeds=speeds)
            for path, name in paths
        ]
        for each in models:
            each.use_memory(memory)
        async with trio.open_nursery() as nursery:
            for each in models:
                nursery.start_soon(each.serve, lambda: None)
            await wait_until(lambda: all(model._file.times for model in models[1:]))
            pid = models[0].worker_pid
            await wait_until(lambda: models[0]._file._was_tried and not memory.reading.locked())
            assert models[0]._file.times is None
            async with contextlib.aclosing(
                models[0].generate(EmbedRequest(model="bert", texts=("the cat",)))
            ) as events:
                assert [event async for event in events]
            assert models[0].worker_pid == pid is not None
            nursery.cancel_scope.cancel()

    async def timed() -> None:
        with trio.fail_after(TIMEOUT_S):
            await main()

    trio.run(timed)


def test_without_a_place_to_remember_nothing_is_tried(random_model: pathlib.Path) -> None:
    """A bare runtime does what it is asked, and no more."""
    assert not LlamaRuntime(read_settings(str(random_model), {}))._file.is_trial_due


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b'{"speeds": {"%s": [1, true, 1]}}',
        b'{"speeds": {"%s": [0, 5, 1]}}',
        b'{"speeds": {"%s": [5, 6]}}',
        b'{"speeds": {"%s": [5, 6, 1.5]}}',
        b'{"a": 1}',
    ],
)
def test_nonsense_on_disk_is_nothing(tmp_path: pathlib.Path, content: bytes) -> None:
    """And what is measured next replaces it."""
    file = tmp_path / "speeds.json"
    file.write_bytes(content.replace(b"%s", _key("ab" * 32, read_settings("demo", {})).encode()))
    cache, settings = SpeedCache(file), read_settings("demo", {})
    assert cache.find("ab" * 32, settings) is None
    cache.keep("ab" * 32, settings, TokenTimes(5, 6))
    assert SpeedCache(file).find("ab" * 32, settings) == TokenTimes(5, 6)


def test_what_was_measured_is_forgotten_after_days(tmp_path: pathlib.Path) -> None:
    """And where the clock was set back: nobody knows how old it is."""
    now = [1_000_000_000.0]
    cache, settings = (
        SpeedCache(tmp_path / "speeds.json", lambda: now[0]),
        read_settings("demo", {}),
    )
    cache.keep("ab" * 32, settings, TokenTimes(5, 6))
    now[0] += KEEP_S - 1
    assert cache.find("ab" * 32, settings) == TokenTimes(5, 6)
    for passed_s in (1, -KEEP_S - 1):
        now[0] += passed_s
        assert cache.find("ab" * 32, settings) is None


def test_another_gpu_is_another_speed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none, or a llama.cpp that cannot use it; of what it cannot use, nothing counts."""
    cache, settings = SpeedCache(tmp_path / "speeds.json"), read_settings("demo", {})

    def run_with(*names: str, is_gpu_build: bool) -> None:
        gpus = tuple(hardware.Gpu(name=each, vram_bytes=9, vram_free_bytes=9) for each in names)
        monkeypatch.setattr(hardware, "usable_gpus", lambda: gpus)
        monkeypatch.setattr(speed_cache, "has_gpu_build", lambda: is_gpu_build)

    run_with("A", is_gpu_build=False)
    cache.keep("ab" * 32, settings, TokenTimes(5, 6))
    run_with("B", is_gpu_build=False)
    assert cache.find("ab" * 32, settings) == TokenTimes(5, 6)
    for names in ((), ("A",), ("A", "A"), ("B",)):
        run_with(*names, is_gpu_build=True)
        assert cache.find("ab" * 32, settings) is None
        cache.keep("ab" * 32, settings, TokenTimes(5, 7))
