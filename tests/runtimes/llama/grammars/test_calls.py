"""Answers that must be calls are valid calls, whatever the model's weights."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.base import ChatMessage, RuntimeFailure, Started, Tool, ToolCall
from runtimes.llama.grammars.reply_grammar import with_reply_grammar
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from tests.helpers import tool_templates
from tests.runtimes.llama.calling_models import (
    NO_ANALYSIS,
    TOOLS,
    asked,
    assert_valid,
    calls_in,
    form_of,
)
from tests.runtimes.llama.engines import make_engine, run
from tests.runtimes.serving import ask, complete, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]


@pytest.fixture(scope="module", params=[*tool_templates.BY_FAMILY])
def family(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    return name


def test_a_call_that_must_be_is_valid(family: str, model: pathlib.Path) -> None:
    """For any seed; the text has its markers, and going on in the middle changes nothing."""
    engine = make_engine(model)
    for seed in range(1, 5):
        (outcome,) = run(engine, asked(seed, parallel_calls=False))
        [(name, arguments)] = calls_in(family, outcome.text)
        assert_valid(name, arguments)
        assert outcome.ended is not None
        assert outcome.ended.finish_reason == "stop"
        cut = len(outcome.ids) // 2
        (rest,) = run(
            engine, asked(seed, parallel_calls=False, continued_ids=tuple(outcome.ids[:cut]))
        )
        assert outcome.text.endswith(rest.text)
        assert_valid(*calls_in(family, outcome.text.removesuffix(rest.text) + rest.text)[0])


def test_several_calls_may_be_made_at_once(family: str, model: pathlib.Path) -> None:
    """Each of them is valid; a Llama 3 makes one, and so does Harmony."""
    most = 0
    for outcome in run(make_engine(model), *(asked(n, max_tokens=160) for n in range(1, 5))):
        assert outcome.ended is not None
        is_cut = outcome.ended.finish_reason == "length"
        calls = calls_in(family, outcome.text, is_cut=is_cut)
        for name, arguments in calls:
            assert_valid(name, arguments)
        most = max(most, len(calls))
    assert (most == 1) == (family in ("llama3", HARMONY))


def test_the_form_is_told_to_who_asks_for_markers(family: str, model: pathlib.Path) -> None:
    """To others the markers stay invisible, as ever."""
    engine = make_engine(model)
    _, form = engine.open(asked(1))
    assert form == form_of(family)
    _, form = engine.open(asked(2, with_markers=False))
    assert form == ReplyForm()
    marker = CALL_MARKERS[family][0]
    (shown,) = engine.model.tokens_of([marker])
    for number, with_markers in ((3, True), (4, False)):
        request = asked(
            number,
            tools=TOOLS,
            must_call=False,
            with_markers=with_markers,
            max_tokens=1,
            logprobs=0,
            bias_tokens=(shown,),
            bias_values=(100.0,),
        )
        (outcome,) = run(engine, request)
        # llama.cpp holds Harmony's to be text anyway.
        is_shown = with_markers or family == HARMONY
        assert outcome.text == (marker if is_shown else "")
        assert outcome.likely[0].likely_data == (outcome.text.encode(),)
        stopping = dataclasses.replace(request, max_tokens=3, stop=(marker,))
        (rest,) = run(engine, dataclasses.replace(stopping, continued_ids=(shown,)))
        assert len(rest.ids) == (0 if is_shown else 3), "what is continued has its markers, too"


def test_a_call_or_an_answer_that_keeps_its_schema(family: str, model: pathlib.Path) -> None:
    """A schema of the answer forbids no call."""
    engine = make_engine(model)
    schema = '{"type": "object", "properties": {"yes": {"const": true}}, "required": ["yes"]}'
    (brace,) = engine.model.tokens_of(["{"])
    head = "<|channel|>final<|message|>" if family == HARMONY else ""
    for bias in (100.0, -100.0):
        request = asked(
            1,
            must_call=False,
            parallel_calls=False,
            json_schema=schema,
            bias_tokens=(brace, *(token for token, _ in NO_ANALYSIS)),
            bias_values=(bias, *(bias for _, bias in NO_ANALYSIS)),
        )
        (outcome,) = run(engine, request)
        is_call = '"yes"' not in outcome.text
        if is_call:
            assert_valid(*calls_in(family, outcome.text)[0])
        else:
            assert json.loads(outcome.text.removeprefix(head)) == {"yes": True}
        assert is_call == (bias < 0) or family in ("llama3", HARMONY), "both begin alike"


def test_a_schema_that_no_grammar_can_promise_is_named() -> None:
    """The function, and what it is."""
    request = asked(1, tools=(("f", "", '{"properties": {"a": {"pattern": "x"}}}'),))
    with pytest.raises(RuntimeFailure, match=r"tool 'f'.*'pattern'"):
        with_reply_grammar(request, ReplyForm("hermes"))


def test_schemas_that_are_too_large_together_are_refused() -> None:
    """Each of them would do."""
    large = json.dumps({"properties": {"a": {"enum": ["x" * 500] * 100}}})
    tools = tuple((f"f{number}", "", large) for number in range(12))
    for count in (1, 12):
        request = asked(1, tools=tools[:count])
        with pytest.raises(RuntimeFailure) if count > 1 else contextlib.nullcontext():
            with_reply_grammar(request, ReplyForm("hermes"))


def test_thoughts_may_come_before_a_call() -> None:
    """Where the prompt has opened them they must end first."""
    for thoughts, begins in (("open", "t0 (one"), ("may", '("<think>" t0)? (one'), ("", " (one")):
        grammar = with_reply_grammar(asked(1), ReplyForm("hermes", thoughts)).grammar
        assert grammar is not None
        assert f"root ::= {begins}" in grammar


@pytest.fixture(scope="module")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Random weights, and a prompt that opens the thoughts."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path_factory.mktemp("thinking") / "random.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "CHAT_TEMPLATE", tool_templates.THINKING)
        patch.setattr(build, "SPECIALS", ["<think>", "</think>", *build.SPECIALS])
        build.write(path)
    return path


def test_an_answer_that_keeps_its_schema_comes_behind_thoughts(
    thinking_model: pathlib.Path,
) -> None:
    """They are any text up to their end, and the schema holds for the rest."""
    engine = make_engine(thinking_model)
    (end,) = engine.model.tokens_of(["</think>"])
    schema = '{"type": "object", "properties": {"yes": {"const": true}}, "required": ["yes"]}'
    plain: dict[str, Any] = {"tools": (), "must_call": False, "json_schema": schema}
    never = asked(1, **plain, max_tokens=30, bias_tokens=(end,), bias_values=(-100.0,))
    (endless,) = run(engine, never)
    assert "{" not in endless.text
    thought = tuple(endless.ids)
    now = asked(1, **plain, continued_ids=thought, bias_tokens=(end,), bias_values=(100.0,))
    (outcome,) = run(engine, now)
    assert json.loads(outcome.text.removeprefix("</think>")) == {"yes": True}
    (unmarked,) = run(engine, asked(1, **plain | {"with_markers": False}))
    assert json.loads(unmarked.text) == {"yes": True}
    _, form = engine.open(asked(9, tools=(), must_call=False, grammar='root ::= "a"'))
    assert form == ReplyForm()


@settings(max_examples=20)
@given(st.booleans(), st.none() | st.just("{}"))
def test_without_need_there_is_no_grammar(parallel: bool, schema: str | None) -> None:
    """Free answers are free, and a schema without tools is what it was."""
    free = asked(1, must_call=False, parallel_calls=parallel)
    assert with_reply_grammar(free, ReplyForm("hermes")) == free
    kept = asked(1, tools=(), must_call=False, json_schema=schema)
    assert with_reply_grammar(kept, ReplyForm()) == kept
    unmarked = dataclasses.replace(kept, with_markers=False)
    assert with_reply_grammar(unmarked, ReplyForm("", "open")) == unmarked


def test_a_call_through_the_worker(family: str, model: pathlib.Path) -> None:
    """Tools go in and the form comes out through the pipe, too; results can be answered."""
    runtime = LlamaRuntime(read_settings(str(model), {"context_tokens": "2048"}))
    tools = tuple(Tool(name=n, description=d, parameters=p) for n, d, p in TOOLS)
    request = ask(
        400,
        prompt=None,
        messages=(ChatMessage(role="user", content="Will it rain?"),),
        tools=tools,
        must_call=True,
        parallel_calls=False,
        with_markers=True,
        logit_bias=NO_ANALYSIS,
    )

    async def main() -> None:
        async with serving(runtime):
            completion = await complete(runtime, request)
            started = completion.events[0]
            assert isinstance(started, Started)
            assert started.form == form_of(family)
            [(name, arguments)] = calls_in(family, completion.text)
            assert_valid(name, arguments)
            assert request.messages is not None
            call = ToolCall(id="abc123def", name=name, arguments=json.dumps(arguments))
            answered = (
                *request.messages,
                ChatMessage(role="assistant", content="", tool_calls=(call,)),
                ChatMessage(role="tool", content="No.", tool_call_id=call.id, name=name),
            )
            again = dataclasses.replace(request, messages=answered, must_call=False, max_tokens=5)
            assert len((await complete(runtime, again)).ids) == 5

    trio.run(main)
