"""Calls with a tag for each parameter keep their schema, whatever the model's weights."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.llama.grammars.reply_grammar import REPEATS_MAX, BegunCalls, with_reply_grammar
from runtimes.parameter_kinds import parameter_kinds
from runtimes.reply_delta import CallArguments
from runtimes.reply_form import CALL_MARKERS, ReplyForm
from runtimes.reply_parser import ReplyParser
from tests.runtimes.llama.engines import generate, make_engine, run
from tests.runtimes.llama.grammars.test_json_schema import KEYWORDS, schemas
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

FAMILIES = ("qwen_coder", "glm")
SCHEMAS: dict[str, dict[str, Any]] = {
    "nothing": {"type": "object", "properties": {}, "additionalProperties": False},
    "texts": {
        "properties": {
            "line": {"type": "string", "maxLength": 4},
            "kind": {"$ref": "#/$defs/kind"},
            "day": {"type": "string", "format": "date"},
            "either": {"anyOf": [{"const": "a\nb"}, {"enum": ["x", "y"]}]},
        },
        "required": ["line", "kind", "day", "either"],
        "$defs": {"kind": {"enum": ['"', "<b>"]}},
    },
    "values": {
        "properties": {
            "a~/b": {"type": "integer", "minimum": 1, "maximum": 3},
            "list": {"type": "array", "items": {"enum": ["x", 5]}, "minItems": 2, "maxItems": 3},
            "some": {"type": ["string", "null"], "maxLength": 2},
            "is": {"type": "boolean"},
        },
        "required": ["a~/b", "list", "some", "is"],
    },
    "others": {"additionalProperties": {"type": "boolean"}},
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    return name


def arguments(family: str, name: str, text: str) -> dict[str, Any]:
    """Of the one call of an answer."""
    parser = ReplyParser(ReplyForm(family), {name: json.dumps(SCHEMAS[name])})
    _, *rest = [*parser.push(text), *parser.finish()]
    parts = [delta.text for delta in rest if isinstance(delta, CallArguments)]
    assert len(parts) == len(rest), text
    values = json.loads("".join(parts))
    assert isinstance(values, dict)
    return values


def is_kept(name: str, values: dict[str, Any]) -> bool:
    """Whether these arguments keep the schema."""
    match name:
        case "nothing":
            return values == {}
        case "texts":
            assert list(values) == ["line", "kind", "day", "either"]
            is_short = len(values["line"]) <= 4 and len(values["day"]) == 10
            return is_short and values["kind"] in '"<b>' and values["either"] in ("a\nb", "x", "y")
        case "values":
            assert list(values) == ["a~/b", "list", "some", "is"]
            some, are_listed = values["some"], all(each in ("x", 5) for each in values["list"])
            is_some = some is None or (isinstance(some, str) and len(some) <= 2)
            assert type(values["is"]) is bool
            return is_some and are_listed and values["a~/b"] in (1, 2, 3)
        case _:
            return all(type(value) is bool for value in values.values())


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_call_that_must_be_keeps_its_schema(family: str, model: pathlib.Path, name: str) -> None:
    """Strings as bare text and all else as JSON, for any seed."""
    engine = make_engine(model)
    for seed in range(1, 4):
        request = generate(
            seed,
            prompt=None,
            messages=(("user", "Go."),),
            tools=((name, "", json.dumps(SCHEMAS[name])),),
            must_call=True,
            parallel_calls=False,
            with_markers=True,
            max_tokens=900,
            seed=seed,
            temperature=0.8,
        )
        (outcome,) = run(engine, request)
        assert outcome.ended is not None
        if outcome.ended.finish_reason == "stop" or name != "others":
            assert is_kept(name, arguments(family, name, outcome.text)), outcome.text


def test_no_end_tag_stands_in_json(family: str) -> None:
    """In a value that is JSON, `<` is written with its number."""
    tools = (("f", "", '{"properties": {"a": {"type": "array"}}}'),)
    request = generate(1, tools=tools, must_call=True)
    grammar = with_reply_grammar(request, ReplyForm(family)).grammar
    assert grammar is not None
    (rule,) = (line for line in grammar.splitlines() if line.startswith("char ::="))
    assert rule.startswith(r'char ::= [^"\\<')


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*CALL_MARKERS]),
    st.dictionaries(st.sampled_from(["a", "b~/", "c>", "\n"]), schemas, max_size=3),
    st.dictionaries(st.sampled_from(KEYWORDS), schemas, max_size=2),
)
def test_any_schema_is_a_grammar_or_refused_and_never_refused_where_it_may_call(
    family: str, properties: dict[str, object], others: dict[str, object]
) -> None:
    """No other exception, whatever the schema is; what cannot be kept is left open."""
    parameters = json.dumps({"properties": properties} | others)
    request = generate(1, tools=(("f", "", parameters),), with_markers=True)
    with contextlib.suppress(RuntimeFailure):
        forced = dataclasses.replace(request, must_call=True)
        assert with_reply_grammar(forced, ReplyForm(family)).grammar is not None
    calls = BegunCalls.of(request, ReplyForm(family))
    assert (calls is None) == (family == "llama3")
    if calls is not None:
        source = calls.source
        assert source is not None
        assert "call ::= " in source
    for key in [*properties, "d"]:
        assert parameter_kinds(json.loads(parameters), key)


@pytest.mark.parametrize("family", [family for family in CALL_MARKERS if family != "llama3"])
@pytest.mark.parametrize(
    ("value", "count"), [({"type": "integer"}, 99), ({"type": "string", "maxLength": 1000}, 9)]
)
def test_what_is_too_much_together_is_left_open(
    family: str, value: dict[str, object], count: int
) -> None:
    """As many functions are held as there is room for."""
    schema = {"properties": {f"key{number}": value for number in range(count)}}
    tools = tuple((f"f{number}", "", json.dumps(schema)) for number in range(99))
    calls = BegunCalls.of(generate(1, tools=tools, with_markers=True), ReplyForm(family))
    assert calls is not None
    source = calls.source
    assert source is not None
    assert 0 < source.count("key0") < 99
    assert source.count(",1000}") * 1000 <= REPEATS_MAX


def test_a_schema_is_parsed_once(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """However many parameters it has that are no strings."""
    schema = json.dumps({"properties": {f"p{number}": {} for number in range(9)}})
    calls = BegunCalls.of(
        generate(1, tools=(("f", "", schema),), with_markers=True), ReplyForm(family)
    )
    assert calls is not None
    loads = mock.Mock(wraps=json.loads)
    monkeypatch.setattr(json, "loads", loads)
    assert calls.source is not None
    assert [called.args[0] for called in loads.call_args_list].count(schema) == 1


@pytest.mark.parametrize("schema", [True, {"type": "string", "properties": 5, "required": [5]}])
def test_what_names_no_parameters_is_left_open(family: str, schema: object) -> None:
    """Whatever else it is a schema of."""
    tools = (("f", "", json.dumps(schema)),)
    calls = BegunCalls.of(generate(1, tools=tools, with_markers=True), ReplyForm(family))
    assert calls is not None
    assert calls.source is not None


def test_an_end_tag_is_refused_however_it_is_escaped(family: str) -> None:
    """It is the same text."""
    schema = r'{"properties": {"a": {"enum": ["<\/parameter>\u003c/arg_value>"]}}}'
    request = generate(1, tools=(("f", "", schema),), must_call=True)
    with pytest.raises(RuntimeFailure, match=r"tool 'f'.*end tag"):
        with_reply_grammar(request, ReplyForm(family))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"anyOf": [{"properties": {}}]}, "'properties'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, "'properties'"),
        ({"properties": {"a": {"enum": ["</parameter></arg_value>"]}}}, "end tag"),
        ({"properties": {"a>": {}}}, "no room"),
        ({"properties": {"a": {"type": "string", "pattern": "x"}}}, "'pattern'"),
    ],
)
def test_what_has_no_such_form_is_refused(family: str, schema: dict[str, Any], why: str) -> None:
    """By the function's name, and what it is."""
    request = generate(1, tools=(("f", "", json.dumps(schema)),), must_call=True)
    with pytest.raises(RuntimeFailure, match=rf"tool 'f'.*{why}"):
        with_reply_grammar(request, ReplyForm(family))
