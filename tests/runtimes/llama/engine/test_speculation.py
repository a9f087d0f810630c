"""With a draft, answers are what they are without, and some of them take fewer decodes.

More tokens in one decode change the rounding of logits. So what is held against each other are not
whole answers: from each place where one differs, the engine without a draft goes on with what the
other one said, and such places must be rare.
"""

import dataclasses
import itertools
import os
import pathlib
import random

import pytest

from runtimes.llama.engine.drafter import Wish
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.parking import common_length
from runtimes.llama.frames import Generate
from tests.runtimes.llama.engine.test_engine import WAYS, various
from tests.runtimes.llama.engines import (
    CONTEXT_TOKENS,
    Outcome,
    Outcomes,
    generate,
    make_engine,
    run,
)
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

ROUNDED_MAX = 1
"""In one answer so many tokens may be as good as those that came without a draft."""
HISTORY = "Now this is a long story. " * 30


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The random model with other weights: hardly ever right."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from tests.helpers import draft_models

    path = tmp_path_factory.mktemp("model") / "other.gguf"
    draft_models.write_other(path)
    return path


def drafted(model: pathlib.Path, draft: pathlib.Path, **changes: object) -> Engine:
    """An engine with a draft of 8 tokens."""
    return make_engine(model, **{"draft": os.fsencode(draft), "draft_tokens": 8, **changes})


def hold_against(plain: Engine, request: Generate, outcome: Outcome) -> None:
    """It is what an engine without a draft says, up to rounding."""
    done = rounded = 0
    first: Outcome | None = None
    while done < len(outcome.ids) or first is None:
        left = None if request.max_tokens is None else request.max_tokens - done
        asked = dataclasses.replace(
            request,
            continued_ids=request.continued_ids + tuple(outcome.ids[:done]),
            max_tokens=left,
        )
        (rest,) = run(plain, asked)
        for one, two in zip(rest.likely, outcome.likely[done:], strict=False):
            if one.token_ids != two.token_ids:
                break
            assert two.likely_logprobs == pytest.approx(one.likely_logprobs, abs=0.02)
        first = first or rest
        done += common_length(rest.ids, outcome.ids[done:])
        if done < len(outcome.ids):
            rounded += 1
            done += 1
    assert rounded <= ROUNDED_MAX
    if not rounded:
        assert (outcome.ids, outcome.text) == (first.ids, first.text)
        assert outcome.ended is not None
        assert first.ended is not None
        assert outcome.ended.finish_reason == first.ended.finish_reason
        assert outcome.ended.completion_tokens == first.ended.completion_tokens


@pytest.mark.parametrize("tokens", [1, 3, 8, 64])
def test_a_draft_that_is_always_right_saves_decodes(
    random_model: pathlib.Path, tokens: int
) -> None:
    """The model as its own draft, greedy: the same text, and each that was right is one less."""
    request = generate(1, max_tokens=200, temperature=0.0)
    engine = drafted(random_model, random_model, draft_tokens=tokens)
    outcomes = Outcomes(engine)
    outcomes.open(request)
    steps = 0
    while outcomes.running:
        outcomes.step()
        steps += 1
    hold_against(make_engine(random_model), request, outcomes.of[1])
    assert steps == 200 - engine.speculation.accepted
    assert steps < 200 / tokens if tokens < 8 else steps < 40
    assert engine.speculation.proposed - engine.speculation.accepted <= 2 * tokens


def test_a_draft_that_is_wrong_is_left_alone(
    random_model: pathlib.Path, other_model: pathlib.Path
) -> None:
    """Of 400 tokens few are proposed, and the text is that of the model."""
    request = generate(1, max_tokens=400, temperature=0.0)
    engine = drafted(random_model, other_model)
    hold_against(make_engine(random_model), request, run(engine, request)[0])
    assert engine.speculation.proposed < 40


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("way", [*sorted(WAYS), "stop strings", "stop tokens", "logprobs", "bytes"])
def test_every_way_of_sampling_is_as_without_a_draft(
    random_model: pathlib.Path,
    other_model: pathlib.Path,
    way: str,
    is_right: bool,
    temperature: float,
) -> None:
    """Grammars, penalties, ends and logprobs go on token by token, as they are accepted."""
    more: dict[str, dict[str, object]] = {
        "stop strings": {"stop": ("ar", "on t"), "max_tokens": 80},
        "stop tokens": {"stop_token_ids": (97, 259), "max_tokens": 80},
        "logprobs": {"logprobs": 4},
        "bytes": {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": False},
    }
    engine = drafted(random_model, random_model if is_right else other_model)
    plain = make_engine(random_model)
    for seed in range(3):
        request = generate(
            1,
            **{"max_tokens": 40, "temperature": temperature, "seed": seed, **(WAYS | more)[way]},
        )
        hold_against(plain, request, run(engine, request)[0])
    assert engine.speculation.proposed > 0
    if is_right and temperature == 0.0 and way in ("plain", "logprobs"):
        assert engine.speculation.accepted > 60


@pytest.mark.parametrize("most", range(1, 20))
def test_an_answer_ends_anywhere_in_a_proposal(random_model: pathlib.Path, most: int) -> None:
    """At its last token or its stop string, not one later; and what is kept of it is all right."""
    engine = drafted(random_model, random_model)
    plain = make_engine(random_model)
    asked = {"temperature": 0.0, "prompt": HISTORY}
    (whole,) = run(plain, generate(1, max_tokens=60, **asked))
    (cut,) = run(engine, generate(1, max_tokens=20 + most, **asked))
    assert cut.ids == whole.ids[: 20 + most]
    assert cut.ended is not None
    assert cut.ended.finish_reason == "length"
    letters = whole.text[20 + most : 23 + most]
    for number in (2, 3):  # the second time behind what is kept of the first
        stopped = generate(number, max_tokens=60, stop=(letters,), **asked)
        hold_against(plain, stopped, run(engine, stopped)[0])
    (again,) = run(engine, generate(4, max_tokens=60, **asked))
    assert again.ids == whole.ids
    going_on = generate(5, prompt=HISTORY + cut.text + " And", max_tokens=9, temperature=0.0)
    (next_turn,) = run(engine, going_on)
    hold_against(plain, going_on, next_turn)
    assert next_turn.ended is not None
    assert next_turn.ended.cached_tokens > len(HISTORY) // 2


def test_a_cancel_in_the_middle_gives_all_room_back(random_model: pathlib.Path) -> None:
    """After any step, in both contexts; and who runs beside it has its own text."""
    engine = drafted(random_model, random_model, draft_tokens=16)
    plain = make_engine(random_model)
    beside = generate(1, max_tokens=150, temperature=0.0)
    for steps in range(1, 8):
        outcomes = Outcomes(engine)
        outcomes.open(beside, generate(2, prompt=HISTORY, temperature=0.0, max_tokens=300))
        for _ in range(steps):
            outcomes.step()
        assert engine.close(2)
        del outcomes.of[2]
        outcomes.finish()
        hold_against(plain, beside, outcomes.of[1])
        draft = engine.speculation.draft_memory
        assert draft is not None
        for memory in (engine.memory, draft):
            assert memory.make_room(4 * CONTEXT_TOKENS)  # nothing runs, so all can be had


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_right", [True, False])
def test_many_at_once_that_come_pause_and_go(
    random_model: pathlib.Path, other_model: pathlib.Path, seed: int, is_right: bool
) -> None:
    """Each has its own answer, and never more tokens in a step than it may have."""
    draft = random_model if is_right else other_model
    engine = drafted(random_model, draft, kv_tokens=CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    requests = various(seed, 9)
    waiting = list(requests)
    dice = random.Random(seed)
    while waiting or outcomes.running:
        if waiting and engine.has_room and dice.random() < 0.3:
            outcomes.open(waiting.pop(0))
        if outcomes.running:
            going_on = dice.sample(outcomes.running, k=dice.randint(1, len(outcomes.running)))
            tokens = dice.randint(1, 9)
            before = engine.speculation.proposed
            got = outcomes.step(going_on, tokens)
            assert engine.speculation.proposed - before <= 8
            assert all(got.count(number) <= tokens for number in going_on)
    plain = make_engine(random_model)
    for request in requests:
        hold_against(plain, request, outcomes.of[request.request])
    assert engine.speculation.proposed > 0


def test_a_cut_answer_goes_on_as_without_a_draft(random_model: pathlib.Path) -> None:
    """From any of its tokens, with a draft that is right: exactly what came in one go."""
    engine = drafted(random_model, random_model)
    asked = {"temperature": 0.0, "repeat_penalty": 1.1}
    (whole,) = run(make_engine(random_model), generate(1, max_tokens=40, **asked))
    for cut in range(1, 40, 3):
        continued = tuple(whole.ids[:cut])
        request = generate(1, max_tokens=40 - cut, continued_ids=continued, **asked)
        hold_against(make_engine(random_model), request, run(engine, request)[0])
    assert engine.speculation.accepted > 0


def test_who_is_thrown_out_for_want_of_room_has_its_whole_answer(
    random_model: pathlib.Path,
) -> None:
    """Together they outgrow the cache, in which proposals take room too."""
    engine = drafted(random_model, random_model, kv_tokens=CONTEXT_TOKENS)
    requests = [
        generate(n, prompt=f"{n}" + "xq" * 200, max_tokens=400, temperature=0.0)
        for n in range(1, 5)
    ]
    outcomes = run(engine, *requests)
    assert [len(outcome.ids) for outcome in outcomes] == [400] * 4
    assert engine.speculation.accepted > 0


def test_who_is_paused_leaves_its_room_in_the_draft_too(random_model: pathlib.Path) -> None:
    """Where the cache holds one of two, the draft helps whoever runs."""
    engine = drafted(random_model, random_model, kv_tokens=CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, prompt="xq" * 500, max_tokens=200, temperature=0.0))
    while not engine.speculation.accepted:
        outcomes.step()
    before = engine.speculation.accepted
    outcomes.open(generate(2, prompt="yz" * 600, max_tokens=200, temperature=0.0))
    outcomes.finish([2])
    assert engine.speculation.accepted - before > 100
    outcomes.finish()
    assert len(outcomes.of[1].ids) == 200


def test_a_full_context_ends_an_answer(random_model: pathlib.Path) -> None:
    """Its last tokens are proposed like any, and none behind them."""
    engine = drafted(random_model, random_model, context_tokens=128, slots=1)
    request = generate(1, max_tokens=None, temperature=0.0)
    (outcome,) = run(engine, request)
    hold_against(make_engine(random_model, context_tokens=128), request, outcome)
    assert outcome.ended is not None
    assert outcome.ended.prompt_tokens + len(outcome.ids) == 128


def test_a_long_prompt_is_read_by_the_draft_a_piece_a_step(random_model: pathlib.Path) -> None:
    """Meanwhile tokens come one by one, and those who generate beside it wait for no more."""
    engine = drafted(random_model, random_model, context_tokens=CONTEXT_TOKENS)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, prompt="xq" * 900, max_tokens=90, temperature=0.0))
    while not outcomes.of[1].ids:
        outcomes.step()
    draft = engine.speculation.draft_memory
    assert draft is not None
    for _ in range(3):
        outcomes.step()
    assert engine.speculation.proposed == 0
    free = [draft.free_cells]
    while outcomes.running:
        outcomes.step()
        free.append(draft.free_cells)
    assert max(before - after for before, after in itertools.pairwise(free)) <= 512
    assert engine.speculation.accepted > 40


def test_a_proposal_finds_its_place_beside_a_prompt(random_model: pathlib.Path) -> None:
    """Pieces of the prompt leave room for it in the batch, and it goes on beside them."""
    engine = drafted(random_model, random_model, draft_tokens=64)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, max_tokens=400, temperature=0.0))
    while len(outcomes.of[1].ids) < 150:
        outcomes.step()
    outcomes.open(generate(2, prompt="xq" * 950))
    beside = [outcomes.step().count(1) for _ in range(3)]
    assert not outcomes.of[2].ids
    assert sum(beside) > 30
    outcomes.finish()


def test_nothing_is_proposed_that_could_not_be_said(random_model: pathlib.Path) -> None:
    """Behind the last token of an answer, or of what its consumer takes."""
    engine = drafted(random_model, random_model)
    run(engine, generate(1, max_tokens=1, temperature=0.0))
    outcomes = Outcomes(engine)
    outcomes.open(generate(2, max_tokens=20, temperature=0.0))
    while outcomes.running:
        outcomes.step(tokens=1)
    assert engine.speculation.proposed == 0
    run(engine, generate(3, max_tokens=2, temperature=0.0))
    assert engine.speculation.proposed == 1


def test_the_same_wish_twice_has_the_same_answer(random_model: pathlib.Path) -> None:
    """What is known to the end is known to be read to the end."""
    engine = drafted(random_model, random_model)
    wish = Wish(1, [97, 98, 99], 5)
    first = engine.speculation.propose([wish])
    assert first == engine.speculation.propose([wish])
    assert len(first[1]) == 5


@pytest.mark.parametrize("is_longer", ["draft", "model"])
def test_padding_of_a_vocabulary_does_no_harm(
    random_model: pathlib.Path, tmp_path: pathlib.Path, is_longer: str
) -> None:
    """What only one of the two knows is neither proposed to the other nor shown to it."""
    from runtimes.llama.demo import build
    from tests.helpers import draft_models

    padded, one_more = tmp_path / "padded.gguf", len(build.vocabulary())
    draft_models.write_padded(padded)
    model, draft = (random_model, padded) if is_longer == "draft" else (padded, random_model)
    engine = drafted(model, draft)
    for liked in (97, one_more)[: 1 if is_longer == "draft" else 2]:
        request = generate(
            1, max_tokens=60, temperature=0.0, bias_tokens=(liked,), bias_values=(200.0,)
        )
        (outcome,) = run(engine, request)
        assert outcome.ids == [liked] * 60
    assert (engine.speculation.proposed == 0) == (is_longer == "draft")


def test_a_draft_is_asked_for_nothing_behind_its_own_context(
    random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """It was trained for 64 tokens; of 300 the rest come without it."""
    from runtimes.llama.demo import build

    short = tmp_path / "short.gguf"
    build.write(short, build.Shape(context_tokens=64))
    engine = drafted(random_model, short)
    request = generate(1, max_tokens=300, temperature=0.0)
    hold_against(make_engine(random_model), request, run(engine, request)[0])
    assert 0 < engine.speculation.proposed < 64
