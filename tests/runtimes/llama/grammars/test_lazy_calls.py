"""An answer is free until a call begins in it; then the call is valid, whatever the weights."""

import dataclasses
import pathlib
from unittest import mock

import pytest

from runtimes.llama.engine.engine import Engine
from runtimes.llama.frames import Generate
from runtimes.llama.grammars import lazy_grammar
from runtimes.llama.grammars.call_watch import call_marker
from runtimes.llama.grammars.grammar import Grammar
from runtimes.reply_delta import CallArguments, CallBegin, Content
from runtimes.reply_form import HARMONY
from runtimes.reply_parser import ReplyParser
from tests.helpers import tool_templates
from tests.runtimes.llama.calling_models import (
    TOOLS,
    asked,
    assert_valid,
    calls_in,
    form_of,
    write_model,
)
from tests.runtimes.llama.engines import Outcome, make_engine, run
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

FAMILIES = [family for family in tool_templates.BY_FAMILY if family != "llama3"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Those whose calls begin with a marker."""
    name: str = request.param
    return name


def free(number: int, **changes: object) -> Generate:
    """A request that may call."""
    fields = {"must_call": False, "temperature": 0.8, "bias_tokens": (), "bias_values": ()}
    return asked(number, **(fields | changes))


def begun(
    engine: Engine, family: str, *, before: str = "", is_typed: bool = False
) -> tuple[int, ...]:
    """The tokens of an answer in which a call has just begun; `is_typed`: letter by letter."""
    text = before + call_marker(family)
    return tuple(engine.model.tokens(text, add_special=False, parse_special=not is_typed))


def whole(family: str, outcome: Outcome, before: str = "") -> list[tuple[str, object]]:
    """The calls of an answer that has begun with a marker."""
    assert outcome.ended is not None
    is_cut = outcome.ended.finish_reason == "length"
    return calls_in(family, call_marker(family) + outcome.text, is_cut=is_cut)


@pytest.mark.parametrize("is_typed", [False, True])
def test_a_call_that_has_begun_is_valid(family: str, model: pathlib.Path, is_typed: bool) -> None:
    """For any seed, and however its marker came."""
    engine = make_engine(model)
    continued = begun(engine, family, is_typed=is_typed)
    for seed in range(1, 5):
        (outcome,) = run(
            engine, free(seed, continued_ids=continued, parallel_calls=seed > 2, max_tokens=160)
        )
        calls = whole(family, outcome)
        for name, arguments in calls:
            assert_valid(name, arguments)
        assert len(calls) <= 1 or seed > 2


def test_further_calls_are_valid_and_come_where_they_may(family: str, model: pathlib.Path) -> None:
    """One that cannot end makes another, unless it may make one only."""
    engine = make_engine(model)
    # A bracket, and DeepSeek's end of all calls, which may be typed letter by letter.
    ends = [ord("]"), ord("s"), *engine.model.tokens_of(["<｜tool▁calls▁end｜>"])]
    for is_parallel in (True, False):
        request = free(
            1,
            continued_ids=begun(engine, family),
            parallel_calls=is_parallel,
            max_tokens=400,
            ignore_eos=True,
            bias_tokens=tuple(ends),
            bias_values=(-100.0,) * len(ends),
        )
        (outcome,) = run(engine, request)
        calls = whole(family, outcome)
        for name, arguments in calls:
            assert_valid(name, arguments)
        assert (len(calls) > 1) == (is_parallel and family != HARMONY)


def test_a_call_that_begins_while_it_answers_is_valid(family: str, model: pathlib.Path) -> None:
    """Its marker is sampled; what was said before stays."""
    engine = make_engine(model)
    if family == HARMONY:
        pytest.skip("its marker is several tokens")
    (shown,) = begun(engine, family)
    for seed in range(1, 4):
        said = tuple(engine.model.tokens("so it is", add_special=False))
        request = free(
            seed,
            continued_ids=said,
            parallel_calls=False,
            bias_tokens=(shown,),
            bias_values=(100.0,),
        )
        (outcome,) = run(engine, request)
        assert outcome.ids[0] == shown
        [(name, arguments)] = calls_in(family, outcome.text)
        assert_valid(name, arguments)


def test_going_on_anywhere_changes_nothing(family: str, model: pathlib.Path) -> None:
    """What is held follows from the tokens alone: another run has the same rest."""
    engine = make_engine(model, reproducible=True)
    said = tuple(engine.model.tokens("so", add_special=False)) if family != HARMONY else ()
    start = said + begun(engine, family)
    (outcome,) = run(engine, free(5, continued_ids=start, max_tokens=60))
    tokens = (*start, *outcome.ids)
    for cut in range(len(start), len(tokens), 7):
        request = free(5, continued_ids=tokens[:cut], max_tokens=len(tokens) - cut)
        (rest,) = run(engine, request)
        assert (*tokens[:cut], *rest.ids) == tokens


def test_without_a_marker_nothing_changes(family: str, model: pathlib.Path) -> None:
    """The same tokens as where no call can come, biases and penalties included."""
    engine = make_engine(model, reproducible=True)
    for seed, temperature in ((1, 0.8), (2, 1.3), (3, 0.0)):
        request = free(
            seed,
            temperature=temperature,
            max_tokens=60,
            repeat_penalty=1.3,
            bias_tokens=(ord("e"), ord("z")),
            bias_values=(-3.0, 2.0),
        )
        held, unheld = run(
            engine, request, dataclasses.replace(request, request=99, with_markers=False)
        )
        assert held.ids == unheld.ids


def test_what_is_no_call_is_free(family: str, model: pathlib.Path) -> None:
    """Tokens of another run are never refused; what a model goes on with then is its own."""
    engine = make_engine(model, reproducible=True)
    strange = (*begun(engine, family), ord("?"), ord("!"))
    request = free(1, continued_ids=strange, max_tokens=20)
    held, unheld = run(
        engine, request, dataclasses.replace(request, request=99, with_markers=False)
    )
    assert held.ids == unheld.ids


def test_a_schema_that_no_grammar_can_promise_is_left_open(
    family: str, model: pathlib.Path
) -> None:
    """An answer that need not call is not refused for it; the call is one all the same."""
    engine = make_engine(model)
    odd = '{"properties": {"a": {"type": "string", "pattern": "x"}}}'
    (outcome,) = run(
        engine,
        free(
            1,
            tools=(("odd", "", odd), *TOOLS),
            continued_ids=begun(engine, family),
            parallel_calls=False,
            bias_tokens=(ord("w"), ord("r"), ord("}"), ord("<")),
            bias_values=(-100.0, -100.0, 30.0, 30.0),
        ),
    )
    parser = ReplyParser(form_of(family), {"odd": odd})
    deltas = [*parser.push(call_marker(family) + outcome.text), *parser.finish()]
    assert deltas[0] == CallBegin(0, "odd")
    assert not any(isinstance(delta, Content) for delta in deltas)
    assert isinstance(deltas[1], CallArguments)


def test_a_grammar_is_made_once_for_all_tokens_that_are_not_chosen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is slow to make."""
    made = mock.Mock(wraps=Grammar)
    monkeypatch.setattr(lazy_grammar, "Grammar", made)
    wrong = ("> x", "> y", "> z", "> q")
    engine = make_engine(write_model(tmp_path / "random.gguf", "hermes", *wrong))
    request = free(
        1,
        continued_ids=begun(engine, "hermes", is_typed=True)[:-1],
        bias_tokens=tuple(range(265, 269)),
        bias_values=(100.0,) * 4,
        max_tokens=1,
    )
    (outcome,) = run(engine, request)
    assert not {*outcome.ids} & {*range(265, 269)}
    assert made.call_count == 1


def test_a_token_that_ends_the_marker_and_goes_on_wrong_is_not_chosen(
    tmp_path: pathlib.Path,
) -> None:
    """However likely: the next one is, in which the call goes on as it must."""
    path = write_model(tmp_path / "random.gguf", "hermes", "> x", "> Ċ")
    engine = make_engine(path)
    wrong, right = 265, 266
    assert (engine.model.piece(wrong), engine.model.piece(right)) == (b">x", b">\n")
    request = free(
        1,
        continued_ids=begun(engine, "hermes", before="so ", is_typed=True)[:-1],
        parallel_calls=False,
        bias_tokens=(wrong, right),
        bias_values=(100.0, 50.0),
    )
    (outcome,) = run(engine, request)
    assert outcome.ids[0] == right
    [(name, arguments)] = calls_in("hermes", "<tool_call" + outcome.text)
    assert_valid(name, arguments)
