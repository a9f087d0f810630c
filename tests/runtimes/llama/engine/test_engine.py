"""Many requests in one engine: none changes or holds up another, and all room comes back."""

import gc
import itertools
import json
import os
import pathlib
import random
from collections.abc import Callable

import pytest

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.engine import REPRODUCIBLE_TOKENS
from runtimes.llama.frames import Generate
from runtimes.llama.pace import BATCH_TOKENS, FIRST_PIECE_TOKENS
from tests.runtimes.llama.engines import (
    CONTEXT_TOKENS,
    Outcomes,
    generate,
    make_engine,
    run,
)
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 3},
            "size": {"type": "integer", "minimum": 0},
        },
        "required": ["name", "tags"],
    }
)
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "penalties": {"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "grammar": {"grammar": 'root ::= ([a-z]{1,7} (" " | ". "))*'},
    "schema": {"json_schema": SCHEMA, "ignore_eos": False},
    "everything": {
        "grammar": "root ::= ([a-z ]{3} [.,])*",
        "repeat_penalty": 1.2,
        "typical_p": 0.9,
        "bias_tokens": (100, 101),
        "bias_values": (2.0, -3.0),
    },
}


def various(seed: int, count: int) -> list[Generate]:
    """Requests of many lengths and kinds; the same for the same seed."""
    dice = random.Random(seed)
    ways = list(WAYS.values())
    return [
        generate(
            number,
            prompt="".join(dice.choices("abcdefg .", k=dice.choice([1, 20, 130, 300]))),
            max_tokens=dice.randint(1, 40),
            seed=dice.randrange(1000),
            temperature=dice.choice([0.0, 0.8, 1.5]),
            **dice.choice(ways),
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_together_is_like_alone(random_model: pathlib.Path, seed: int) -> None:
    """Reproducible: each request has the same tokens among others as in an engine of its own."""
    engine = make_engine(random_model, reproducible=True)
    outcomes = Outcomes(engine)
    waiting = various(seed, 9)
    dice = random.Random(seed)
    while waiting or outcomes.running:  # they come and go in the middle of each other
        if waiting and engine.has_room and dice.random() < 0.3:
            outcomes.open(waiting.pop(0))
        if outcomes.running:
            paused = dice.sample(outcomes.running, k=dice.randrange(len(outcomes.running)))
            outcomes.step([number for number in outcomes.running if number not in paused])
    for request in various(seed, 9):
        (alone,) = run(make_engine(random_model, reproducible=True, slots=1), request)
        together = outcomes.of[request.request]
        assert (together.ids, together.text) == (alone.ids, alone.text)


@pytest.mark.parametrize("prompt", ["Once upon a time", "many words " * 25])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_cut_answer_goes_on_as_if_it_had_not_been(
    random_model: pathlib.Path, way: str, prompt: str
) -> None:
    """Reproducible, temperature 0.8: prompt and the first k ids give exactly the rest."""
    asked = {"prompt": prompt, "max_tokens": 40, **WAYS[way]}
    (whole,) = run(make_engine(random_model, reproducible=True), generate(1, **asked))
    assert len(whole.ids) > 10
    engine = make_engine(random_model, reproducible=True)
    for cut in (1, 2, 7, len(whole.ids) - 1):
        asked["max_tokens"] = 40 - cut
        asked["continued_ids"] = tuple(whole.ids[:cut])
        (rest,) = run(engine, generate(cut, **asked))
        assert rest.ids == whole.ids[cut:]
        assert whole.text.endswith(rest.text)
        assert rest.ended is not None
        assert rest.ended.completion_tokens == len(whole.ids) - cut


def test_no_text_is_lost_or_repeated_at_a_cut(random_model: pathlib.Path) -> None:
    """What one run has shown up to a cut, and what the next shows, are the text of one."""
    asked = {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "stop": ("e ", "zq")}
    engine = make_engine(random_model, reproducible=True)
    for seed in range(12):
        (whole,) = run(engine, generate(1, max_tokens=30, seed=seed, **asked))
        for cut in range(1, len(whole.ids)):
            outcomes = Outcomes(engine)
            outcomes.open(generate(1, max_tokens=30, seed=seed, **asked))
            while len(outcomes.of[1].ids) < cut:
                outcomes.step()
            engine.close(1)
            first = outcomes.of[1]
            request = generate(
                1, max_tokens=30 - cut, seed=seed, continued_ids=tuple(first.ids), **asked
            )
            (rest,) = run(engine, request)
            assert first.text + rest.text == whole.text


def test_what_had_ended_ends_again(random_model: pathlib.Path) -> None:
    """Behind an end token, a stop string or a full context nothing comes, and it is said why."""
    engine = make_engine(random_model, context_tokens=256)
    (end,) = engine.model.end_tokens[:1]
    (stopped,) = run(engine, generate(1, continued_ids=(end,)))
    assert stopped.ended is not None
    assert (stopped.ids, stopped.ended.finish_reason) == ([], "stop")
    (full,) = run(engine, generate(2, max_tokens=None))
    (over,) = run(engine, generate(3, continued_ids=tuple(full.ids)))
    assert over.ended is not None
    assert (over.ids, over.ended.finish_reason) == ([], "length")


@pytest.mark.parametrize("reproducible", [True, False])
def test_a_known_beginning_is_not_decoded_again(
    random_model: pathlib.Path, reproducible: bool
) -> None:
    """The second turn of a chat reuses the first; at least its last token is decoded."""
    engine = make_engine(random_model, reproducible=reproducible)
    history = "Now this is a long story. " * 30
    (first,) = run(engine, generate(1, prompt=history, temperature=0.0))
    (second,) = run(engine, generate(2, prompt=history + first.text + " And?", temperature=0.0))
    (again,) = run(engine, generate(3, prompt=history, temperature=0.0))
    assert first.ended is not None
    assert second.ended is not None
    assert again.ended is not None
    assert first.ended.cached_tokens == 0
    if reproducible:  # pieces of the shapes that they have without a beginning
        assert not any(tokens % REPRODUCIBLE_TOKENS for tokens in second.prefilled)
    known = first.ended.prompt_tokens
    least = known // REPRODUCIBLE_TOKENS * REPRODUCIBLE_TOKENS if reproducible else known - 64
    assert second.ended.cached_tokens >= least
    assert 0 < again.ended.cached_tokens < again.ended.prompt_tokens


def test_reuse_changes_no_greedy_token(random_model: pathlib.Path) -> None:
    """Reproducible: with beginnings of other requests or without, the same tokens."""
    engine = make_engine(random_model, reproducible=True, slots=2)
    dice = random.Random(1)
    words = ["alpha ", "beta ", "gamma "]
    prompts: list[str] = []
    for _ in range(12):
        beginning = dice.choice([*prompts, ""])[: dice.choice([100, 300, 500])]
        prompts.append(beginning + "".join(dice.choices(words, k=50)))
    reused = 0
    for prompt in prompts:
        request = generate(1, prompt=prompt, temperature=0.0, max_tokens=24)
        (warm,) = run(engine, request)
        (cold,) = run(make_engine(random_model, reproducible=True, slots=1), request)
        assert warm.ids == cold.ids
        assert warm.ended is not None
        reused += warm.ended.cached_tokens
    assert reused > 0


def test_a_beginning_that_made_way_is_known_and_the_same(random_model: pathlib.Path) -> None:
    """Moved out of the cache by others and back, it gives the logits that it gave before."""
    engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS)
    history = "Now this is a long story. " * 40
    asked = {"prompt": history + "And", "max_tokens": 1, "temperature": 0.0, "logprobs": 5}
    run(engine, generate(1, prompt=history))
    (before,) = run(engine, generate(2, **asked))
    run(engine, *(generate(number, prompt="xq" * 400) for number in (3, 4)))
    assert engine.memory.free_cells < len(history)
    (after,) = run(engine, generate(5, **asked))
    assert after.ended is not None
    assert after.ended.cached_tokens > len(history) // 2
    for one, other in zip(before.likely, after.likely, strict=True):
        assert other.likely_logprobs == pytest.approx(one.likely_logprobs, abs=0.01)


def test_a_common_beginning_lies_in_the_cache_once(random_model: pathlib.Path) -> None:
    """Four requests with the same long beginning take its cells only once."""
    engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS)
    system = "The same rules for everybody. " * 40
    run(engine, generate(1, prompt=system, max_tokens=1))
    outcomes = Outcomes(engine)
    outcomes.open(*(generate(n, prompt=f"{system} {n}", max_tokens=9) for n in range(2, 6)))
    for _ in range(4):
        outcomes.step()
    assert all(len(outcomes.of[number].ids) == 4 for number in range(2, 6))
    outcomes.finish()


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_cancel_gives_the_room_back(random_model: pathlib.Path, steps: int) -> None:
    """Cancelled while it waits, in its prompt or in its answer: exactly its cells are free."""
    engine = make_engine(random_model)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, max_tokens=400))
    for _ in range(3):
        outcomes.step()
    others = engine.memory.free_cells
    outcomes.open(generate(2, prompt="word " * 300))
    for _ in range(steps):
        outcomes.step()
    assert engine.close(2)
    assert not engine.close(2)
    del outcomes.of[2]
    assert engine.memory.free_cells == others - steps
    outcomes.finish()
    assert len(outcomes.of[1].ids) == 400


def test_a_long_prompt_holds_up_no_stream(random_model: pathlib.Path) -> None:
    """While a prompt of many batches is read, every step has a token for who generates."""
    engine = make_engine(random_model, kv_tokens=2 * CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, max_tokens=100), generate(2, max_tokens=100))
    outcomes.step()
    outcomes.open(generate(3, prompt="xq" * 950))
    while not outcomes.of[3].ids:
        assert {1, 2} <= set(outcomes.step())
    borders = [0, *outcomes.of[3].prefilled]
    pieces = [end - start for start, end in itertools.pairwise(borders)]
    assert len(pieces) >= 3
    assert max(pieces) == BATCH_TOKENS - 2


def test_a_larger_batch_has_more_of_a_prompt(random_model: pathlib.Path) -> None:
    """And the same answer."""
    answers = []
    for batch_tokens in (BATCH_TOKENS, 3 * BATCH_TOKENS):
        engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS, batch_tokens=batch_tokens)
        outcomes = Outcomes(engine)
        outcomes.open(generate(1, prompt="xq" * 950, temperature=0.0))
        while outcomes.running:
            outcomes.step()
        borders = [0, *outcomes.of[1].prefilled]
        pieces = [end - start for start, end in itertools.pairwise(borders)]
        assert BATCH_TOKENS // 2 < max(pieces) <= batch_tokens
        assert (max(pieces) > BATCH_TOKENS) == (batch_tokens > BATCH_TOKENS)
        answers.append(outcomes.of[1].ids)
    assert answers[0] == answers[1]


def test_prompts_share_the_batch(random_model: pathlib.Path) -> None:
    """Two long prompts come on equally fast, and a short one is done in its first step."""
    engine = make_engine(random_model)
    outcomes = Outcomes(engine)
    outcomes.open(*(generate(number, prompt="xq" * 900) for number in (1, 2)))
    outcomes.open(generate(3, prompt="xq"))
    assert outcomes.step() == [3]
    assert outcomes.of[1].prefilled == outcomes.of[2].prefilled == [(FIRST_PIECE_TOKENS - 2) // 2]


def test_who_does_not_fit_waits_in_order(random_model: pathlib.Path) -> None:
    """A budget of one context, and three that want most of it: a short one does not overtake."""
    engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    prompts = {number: f"{number}" + "xq" * 700 for number in range(1, 4)}
    prompts[4] = "short enough to overtake"
    outcomes.open(*(generate(number, prompt=prompt) for number, prompt in prompts.items()))
    begun = []
    while outcomes.running:
        begun += [number for number in outcomes.step() if number not in begun]
    assert begun[:2] == [1, 2]  # the last two fit together
    assert all(len(outcome.ids) == 20 for outcome in outcomes.of.values())


def test_the_youngest_gives_way_when_all_have_grown(random_model: pathlib.Path) -> None:
    """Together they outgrow the budget: each still has its whole answer."""
    engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS)
    requests = [generate(n, prompt="xq" * 200, max_tokens=900, seed=n) for n in range(1, 5)]
    outcomes = run(engine, *requests)
    assert [len(outcome.ids) for outcome in outcomes] == [900] * 4
    assert [outcome.ended.finish_reason for outcome in outcomes if outcome.ended] == ["length"] * 4


def test_who_is_paused_gives_its_room_to_others_and_goes_on_later(
    random_model: pathlib.Path,
) -> None:
    """A slow consumer keeps nobody from being served, and misses nothing itself."""
    engine = make_engine(random_model, kv_tokens=CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, prompt="xq" * 500, max_tokens=200))
    for _ in range(20):
        outcomes.step()
    had = list(outcomes.of[1].ids)
    outcomes.open(generate(2, prompt="yz" * 600, max_tokens=50))
    outcomes.finish([2])
    assert outcomes.of[1].ids == had
    outcomes.finish()
    assert outcomes.of[1].ids[: len(had)] == had
    assert len(outcomes.of[1].ids) == 200
    assert outcomes.of[1].ended is not None
    assert outcomes.of[1].ended.cached_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
def test_answers_keep_their_schema(random_model: pathlib.Path, temperature: float) -> None:
    """Even a model of random weights writes JSON of the right shape, when it comes to its end."""
    engine = make_engine(random_model)
    ended = 0
    for seed in range(8):
        request = generate(
            1,
            json_schema=SCHEMA,
            max_tokens=300,
            temperature=temperature,
            seed=seed,
            ignore_eos=False,
        )
        (outcome,) = run(engine, request)
        assert outcome.ended is not None
        if outcome.ended.finish_reason == "stop":
            ended += 1
            answer = json.loads(outcome.text)
            assert answer.keys() - {"size"} == {"name", "tags"}
            assert len(answer["name"]) <= 12
            assert len(answer["tags"]) >= 3
            assert set(answer["tags"]) <= {"red", "green"}
    assert ended or temperature == 0.0


@pytest.mark.parametrize(
    "source",
    [
        "root ::= ",
        "root ::= (",
        'x ::= "a"',
        'root ::= root "a"',
        "root ::= " + "(" * 9999,
        '"',
        "\\",
    ],
)
def test_what_is_no_grammar_is_a_bad_request(random_model: pathlib.Path, source: str) -> None:
    """One line and a code; the engine serves on."""
    engine = make_engine(random_model)
    if source != "root ::= ":  # which is a grammar: of the empty text
        with pytest.raises(RuntimeFailure) as failed:
            engine.open(generate(1, grammar=source))
        assert failed.value.code == "bad_request"
        assert "\n" not in failed.value.message
    assert run(engine, generate(2))[0].ended


def test_a_grammar_that_leaves_no_token_ends_the_answer(random_model: pathlib.Path) -> None:
    """At its end only an end is possible, also where that is to be ignored."""
    engine = make_engine(random_model)
    for temperature in (0.0, 0.8):
        (outcome,) = run(engine, generate(1, grammar='root ::= "ab"', temperature=temperature))
        assert outcome.text == "ab"
        assert outcome.ended is not None
        assert outcome.ended.finish_reason == "stop"


@pytest.mark.parametrize(
    "changes",
    [
        {"bias_tokens": (10**6,), "bias_values": (1.0,)},
        {"continued_ids": (10**6,)},
        {"continued_ids": (1, 2, 3), "grammar": 'root ::= "ab"'},
        {"json_schema": "{"},
        {"json_schema": '{"not": {}}'},
        {"prompt": ""},
        {"stop_token_ids": (5, 10**6)},
    ],
)
def test_what_cannot_be_is_refused_and_holds_nothing(
    random_model: pathlib.Path, changes: dict[str, object]
) -> None:
    """Tokens of another model, a continuation against its grammar, no schema: a bad request."""
    engine = make_engine(random_model)
    with pytest.raises(RuntimeFailure) as failed:
        engine.open(generate(1, **changes))
    assert failed.value.code == "bad_request"
    assert not engine.close(1)
    assert run(engine, generate(2))[0].ended


def test_prompt_and_continued_tokens_must_fit(random_model: pathlib.Path) -> None:
    """Together they are longer than the context: context_too_long."""
    engine = make_engine(random_model, context_tokens=64)
    with pytest.raises(RuntimeFailure) as failed:
        engine.open(generate(1, continued_ids=(97,) * 60))
    assert failed.value.code == "context_too_long"


def test_each_position_draws_anew(random_model: pathlib.Path) -> None:
    """With all tokens about equally likely, one answer has many of them."""
    engine = make_engine(random_model)
    hot = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    (outcome,) = run(engine, generate(1, max_tokens=50, **hot))
    assert len(set(outcome.ids)) > 30


def test_penalties_and_biases_act(random_model: pathlib.Path) -> None:
    """A bias decides the greedy token; penalties make tokens come less often."""
    engine = make_engine(random_model)
    (biased,) = run(engine, generate(1, temperature=0.0, bias_tokens=(5,), bias_values=(100.0,)))
    assert set(biased.ids) == {5}
    counts = []
    for penalty in (0.0, 2.0):
        request = generate(2, temperature=0.0, max_tokens=60, frequency_penalty=penalty)
        counts.append(len(set(run(engine, request)[0].ids)))
    assert counts[0] < counts[1]


def test_its_memory_goes_with_it(
    random_model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts, a draft's too, then the weights that they are of."""
    gc.collect()  # those of other tests
    freed: list[int] = []
    engine = make_engine(random_model, draft=os.fsencode(random_model))
    bindings, model = engine.model.bindings, engine.model.handle
    for name in ("llama_free", "llama_model_free"):
        free = getattr(bindings, name)

        def note(handle: int, free: Callable[[int], None] = free) -> None:
            freed.append(handle)
            free(handle)

        monkeypatch.setattr(bindings, name, note)
    del engine
    gc.collect()
    assert len(freed) == 4
    assert freed.index(model) in (1, 3)
