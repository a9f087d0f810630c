"""Calls with a tag for each parameter become the JSON that the function's schema asks for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.parameter_kinds import ANYTHING, parameter_kinds, value_text
from runtimes.reply_delta import CallArguments, CallBegin, Content, Thoughts
from runtimes.reply_form import ReplyForm
from runtimes.reply_parser import ReplyParser
from runtimes.tagged_calls import HELD_MAX
from tests.runtimes.test_reply_parser import TAGGED, cut, read

FUNCTIONS = {
    "look": json.dumps(
        {
            "type": "object",
            "properties": {
                "of": {"type": "string"},
                "list": {"type": "array"},
                "count": {"type": "integer"},
                "is": {"type": "boolean"},
                "or": {"type": ["string", "null"]},
            },
        }
    ),
    "free": "{}",
}
CALL_OF = {
    "qwen_coder": "<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>",
    "glm": "<tool_call>{name}\n{values}</tool_call>",
}
VALUE_OF = {
    "qwen_coder": "<parameter={key}>\n{value}\n</parameter>\n",
    "glm": "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
}
families = pytest.mark.parametrize("family", CALL_OF)


def call(family: str, values: dict[str, str], name: str = "look") -> str:
    """A call with values as they are written."""
    texts = (VALUE_OF[family].format(key=key, value=value) for key, value in values.items())
    return CALL_OF[family].format(name=name, values="".join(texts))


def open_call(family: str, values: dict[str, str]) -> str:
    """The same without its end."""
    text = call(family, values)
    return text[: text.index(CALL_OF[family].rpartition("{values}")[2])]


def arguments(family: str, values: dict[str, str], name: str = "look") -> object:
    """What is read of such a call."""
    begin, text = read(ReplyForm(family), [call(family, values, name)], FUNCTIONS)
    assert begin == CallBegin(0, name)
    assert isinstance(text, CallArguments)
    return json.loads(text.text)


@families
@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("of", "5", "5"),
        ("of", "", ""),
        ("of", ' a\n\n"b" \\n é\n', ' a\n\n"b" \\n é\n'),
        ("of", "<b> </param", "<b> </param"),
        ("list", '[1, {"a": "b"}]', [1, {"a": "b"}]),
        ("list", "[1", "[1"),
        ("count", "5", 5),
        ("count", " 5\n", 5),
        ("count", "NaN", "NaN"),
        ("count", "five", "five"),
        ("is", "true", True),
        ("is", "False", False),
        ("or", "null", None),
        ("or", "5", "5"),
        ("or", "None", "None"),
        ("else", "5", 5),
        ("else", "five", "five"),
        ("else", "[" * 99_999, "[" * 99_999),
        ("count", "9" * 2 * HELD_MAX, "9" * 2 * HELD_MAX),
    ],
)
def test_a_value_is_what_the_schema_wants(family: str, key: str, value: str, meant: object) -> None:
    """A string is the text itself, all else JSON; what is none is a string after all."""
    assert arguments(family, {key: value}) == {key: meant}


@families
def test_calls_with_several_values_and_with_none(family: str) -> None:
    """In the order in which they stand."""
    assert arguments(family, {}) == {}
    text = call(family, {"of": "a", "count": "5"}) + "\n" + call(family, {"x": "1"}, "free")
    assert read(ReplyForm(family), [text], FUNCTIONS) == [
        CallBegin(0, "look"),
        CallArguments(0, '{"of": "a", "count": 5}'),
        CallBegin(1, "free"),
        CallArguments(1, '{"x": 1}'),
    ]
    assert read(ReplyForm(family), [text], FUNCTIONS, most=1)[2:] == [
        Content(call(family, {"x": "1"}, "free"))
    ]


@given(
    st.sampled_from([*CALL_OF]),
    st.dictionaries(
        st.sampled_from(["of", "list", "count", "or", "else"]), st.text(max_size=20), max_size=4
    ),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_whatever_stands_in_values_the_arguments_are_json(
    family: str, values: dict[str, str], places: list[int]
) -> None:
    """Strings are the very text; cut anywhere it is the same."""
    text = call(family, values)
    whole = read(ReplyForm(family), [text], FUNCTIONS)
    assert read(ReplyForm(family), cut(text, places), FUNCTIONS) == whole
    assert isinstance(whole[1], CallArguments)
    read_values = json.loads(whole[1].text)
    assert read_values.keys() == values.keys()
    assert read_values.get("of") == values.get("of")


@families
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95])
def test_a_call_that_is_cut_short_is_never_whole(family: str, share: float) -> None:
    """Nobody runs a function with half of a text."""
    text = call(family, {"of": "x" * 200, "count": "5"})
    found = read(ReplyForm(family), [text[: int(len(text) * share)]], FUNCTIONS)
    assert found[0] == CallBegin(0, "look")
    assert isinstance(found[1], CallArguments)
    with pytest.raises(json.JSONDecodeError):
        json.loads(found[1].text)
    assert len(found) == 2, "no marker is told"


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen_coder", "<tool_call>\n<function=other>\n</function>\n</tool_call>"),
        ("qwen_coder", "<tool_call>\n<function=look"),
        ("qwen_coder", '<tool_call>{"name": "look", "arguments": {}}</tool_call>'),
        ("qwen_coder", "<function=look>\n</function>"),
        ("qwen_coder", "<tool_call><function=" + "x" * 999),
        ("glm", "<tool_call>other</tool_call>"),
        ("glm", "<tool_call>look"),
        ("glm", "<tool_call>look {}</tool_call>"),
        ("glm", "<arg_key>of</arg_key>"),
    ],
)
def test_what_is_no_call_is_content(family: str, text: str) -> None:
    """Every character of it."""
    assert read(ReplyForm(family), [text], FUNCTIONS) == [Content(text)]


@families
def test_what_follows_in_the_middle_of_a_call_is_content(family: str) -> None:
    """The call ends there, and is not whole."""
    text = open_call(family, {"of": "a"})
    found = read(ReplyForm(family), [text + "Sorry. <tool_call>"], FUNCTIONS)
    assert found == [
        CallBegin(0, "look"),
        CallArguments(0, '{"of": "a"'),
        Content("Sorry. <tool_call>"),
    ]


@pytest.mark.parametrize(
    ("family", "values"), [("qwen_coder", {}), ("qwen_coder", {"of": "a"}), ("glm", {"of": "a"})]
)
@pytest.mark.parametrize(
    "text",
    [
        *("<b>Sorry, I was wrong: 5 < 6.</b> Here it is.", "</b>", "<parameter>a", "<arg_keys>a"),
        *("<parameter=a<b", "<arg_key></arg_key>", "<arg_key>a</arg_key>b"),
        *("<arg_key>a</arg_value>", "<arg_key>a</arg_key> <b>", "<parameter=" + "x" * 129),
        "<arg_key>" + "x" * 129,
    ],
)
def test_what_begins_like_a_tag_in_a_call_and_is_none_is_content(
    family: str, values: dict[str, str], text: str
) -> None:
    """Every character of it, as soon as it is known."""
    begun = open_call(family, values)
    assert read(ReplyForm(family), [begun, text], FUNCTIONS)[2:] == [Content(text)]
    assert read(ReplyForm(family), [begun, *text], FUNCTIONS)[2:] == [Content(text)]
    assert ReplyParser(ReplyForm(family), FUNCTIONS).push(begun + text)[2:] == [Content(text)]


@pytest.mark.parametrize(
    ("family", "tag"),
    [
        *(("qwen_coder", tag) for tag in ("<parameter=a b>", "</function>")),
        *(("glm", tag) for tag in ("<arg_key>a b</arg_key> \n<arg_value>", "</tool_call>")),
    ],
)
def test_what_may_become_a_tag_of_a_call_is_left_out(family: str, tag: str) -> None:
    """Nobody wants to read half of one."""
    for length in range(1, len(tag)):
        text = open_call(family, {"of": "a"}) + tag[:length]
        found = read(ReplyForm(family), [text], FUNCTIONS)
        assert found == [CallBegin(0, "look"), CallArguments(0, '{"of": "a"')]


@families
def test_a_call_behind_thoughts_and_words(family: str) -> None:
    """A call in the thoughts is one of them."""
    text = TAGGED[family]
    found = read(ReplyForm(family, "may"), [f"<think>{text}</think>\n\nLook: {text}"])
    assert found[:3] == [Thoughts(text), Content("Look:"), CallBegin(0, "look")]


@families
def test_a_long_string_can_be_followed(family: str) -> None:
    """It goes on as it comes."""
    parser = ReplyParser(ReplyForm(family), FUNCTIONS)
    begin = call(family, {"of": "a@"}).partition("@")[0]
    assert parser.push(begin) == [CallBegin(0, "look"), CallArguments(0, '{"of": "a')]
    assert parser.push('b"\nc<') == [CallArguments(0, 'b\\"\\nc')]
    assert parser.push("d") == [CallArguments(0, "<d")]


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"properties": {"k": {"enum": ["a", 1]}}}, {"string", "integer", "number"}),
        ({"properties": {"k": {"const": 1.5}}}, {"number"}),
        (
            {"properties": {"k": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {"type": "null"}}},
            {"null"},
        ),
        ({"properties": {"k": {"$ref": "#"}}, "type": "object"}, {"object"}),
        ({"properties": {"k": {"$ref": "#/properties/k"}}}, ANYTHING),
        (
            {"properties": {"k": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
            {"string", "null"},
        ),
        ({"properties": {"k": {"allOf": [{"minLength": 1}]}}}, {"string"}),
        ({"properties": {"k": {"items": {}}}}, {"array"}),
        ({"additionalProperties": {"type": "string"}}, {"string"}),
        ({"properties": {"k": {"type": {}}}}, ANYTHING),
        ({"properties": {"k": {"type": []}}}, ANYTHING),
        ({"properties": {"k": True}}, ANYTHING),
        ({"properties": 5}, ANYTHING),
        (5, ANYTHING),
    ],
)
def test_what_a_schema_lets_a_parameter_be(schema: object, kinds: set[str]) -> None:
    """Whatever the schema is: foreign and endless ones allow anything."""
    assert parameter_kinds(schema, "k") == kinds


@given(st.text(), st.sets(st.sampled_from(sorted(ANYTHING))))
def test_a_value_is_json_whatever_it_is(text: str, kinds: set[str]) -> None:
    """And one of its kinds, where that can be."""
    value = json.loads(value_text(text, frozenset(kinds)))
    if "string" in kinds and isinstance(value, str):
        assert value == text or json.loads(text) == value
