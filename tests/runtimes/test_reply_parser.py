"""Answers are read alike however they are cut, and no character of them is lost."""

import itertools
import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtimes.json_calls import HELD_MAX
from runtimes.json_extent import DEPTH_MAX
from runtimes.reply_delta import CallArguments, CallBegin, Content, Delta, Thoughts
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from runtimes.reply_parser import ReplyParser
from runtimes.reply_reader import HEAD_MAX, SPACE_MAX
from runtimes.tagged_calls import TAGS

FUNCTIONS = {
    "look": '{"type": "object", "properties": {"of": {"type": "string"}}}',
    "put": "{}",
}
ARGUMENTS = '{"of": "a } \\" b", "list": [1, {}]}'
CALL = {
    "hermes": '<tool_call>\n{"name": "look", "arguments": %s}\n</tool_call>',
    "llama3": '{"name": "look", "parameters": %s}',
    "mistral": '[TOOL_CALLS] [{"name": "look", "arguments": %s}]',
    "mistral_args": "[TOOL_CALLS]look[CALL_ID]abc123def[ARGS]%s",
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n%s\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>%s"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
}
FAMILIES = tuple(CALL)
"""Those whose calls are JSON behind a marker."""
TAGGED = {
    "qwen_coder": (
        '<tool_call>\n<function=look>\n<parameter=of>\na } " b\n</parameter>\n'
        "<parameter=list>\n[1, {}]\n</parameter>\n</function>\n</tool_call>"
    ),
    "glm": (
        '<tool_call>look\n<arg_key>of</arg_key>\n<arg_value>a } " b</arg_value>\n'
        "<arg_key>list</arg_key>\n<arg_value>[1, {}]</arg_value>\n</tool_call>"
    ),
}
HARMONIES = (
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>%s<|call|>",
    " to=functions.look<|channel|>commentary json<|message|>%s<|call|>",
)
forms = st.builds(
    ReplyForm, st.sampled_from(["", *CALL_MARKERS]), st.sampled_from(["", "may", "open"])
)
pieces = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<thi",
            "</",
            "<tool_call>",
            "</tool_call>",
            "<tool_",
            "[TOOL_CALLS]",
        ),
        *(
            "[ARGS]",
            "[CALL_ID]x",
            "<|python_tag|>",
            "{",
            "}",
            "[",
            "]",
            '"',
            "\\",
            ",",
            ":",
            ";",
            " ",
            "\n",
        ),
        *("look", '"name"', '"look"', '"arguments"', '"parameters"', "null", "1", "é", "\u2028"),
        *(
            '{"name": "look", "arguments": ',
            '{"name": "look", "parameters": {"a": "b"}}',
            ARGUMENTS,
        ),
        *(' {"name": "other", "arguments": {}}', " " * (SPACE_MAX + 1), " " * (SPACE_MAX - 1)),
        *(text % ARGUMENTS for text in (*CALL.values(), *HARMONIES)),
        *TAGGED.values(),
        *(marker for family in CALL_MARKERS for marker in CALL_MARKERS[family]),
        *("<function=look>", "<function=", "<parameter=of>", "<parameter=", "</parameter>"),
        *("</function>", "<arg_key>of", "functions", "```json", "analysis", "final", "<|en"),
        *(" to=functions.look", "<|start|>assistant", "<｜tool▁", "True", "x" * HEAD_MAX),
    ]
)
texts = st.lists(pieces | st.text(max_size=6), max_size=12).map("".join)


def read(
    form: ReplyForm,
    parts: Sequence[str],
    functions: Mapping[str, str] = FUNCTIONS,
    most: int | None = None,
) -> list[Delta]:
    """What comes of an answer in these parts, neighbours of one kind put together."""
    parser = ReplyParser(form, functions, most)
    merged: list[Delta] = []
    for delta in [*(d for part in parts for d in parser.push(part)), *parser.finish()]:
        last = merged[-1] if merged else None
        if isinstance(last, Content) and isinstance(delta, Content):
            merged[-1] = Content(last.text + delta.text)
        elif isinstance(last, Thoughts) and isinstance(delta, Thoughts):
            merged[-1] = Thoughts(last.text + delta.text)
        elif isinstance(last, CallArguments) and isinstance(delta, CallArguments):
            merged[-1] = CallArguments(last.index, last.text + delta.text)
        else:
            merged.append(delta)
    assert parser.push("") == parser.finish() == []
    return merged


def looked(index: int = 0, arguments: str = ARGUMENTS) -> list[Delta]:
    """One whole call."""
    return [CallBegin(index, "look"), CallArguments(index, arguments)]


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces that end at these places."""
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(ends)]


@given(forms, texts, st.lists(st.integers(0, 400), max_size=8))
@example(ReplyForm("hermes", "may"), " " * 65 + "<think>x</think> y", [65])
@example(ReplyForm("llama3"), '{"name":"look"}; ' + " " * 64 + '{"name":"look"}', [17, 80])
def test_where_the_text_is_cut_makes_no_difference(
    form: ReplyForm, text: str, places: list[int]
) -> None:
    """Whole, in any pieces, or letter by letter: the same deltas."""
    whole = read(form, [text])
    assert read(form, cut(text, places)) == whole
    assert read(form, list(text)) == whole
    assert read(form, cut(text, places), most=1) == read(form, [text], most=1)


@given(forms, texts)
def test_nothing_is_told_twice_or_made_up(form: ReplyForm, text: str) -> None:
    """All that comes out stands in the text, in this order."""
    rest = iter(text)
    for delta in read(form, [text]):
        if isinstance(delta, CallArguments) and form.calls in TAGS:
            continue  # written anew
        if isinstance(delta, CallArguments) and delta.text not in text:
            json.loads(delta.text)  # arguments before the name, or as a text: written anew
            continue
        said = delta.name if isinstance(delta, CallBegin) else delta.text
        for letter in said:
            assert any(letter == other for other in rest), delta


@given(st.sampled_from(["", *sorted(CALL_MARKERS.keys() - {HARMONY})]), texts)
def test_what_calls_nothing_known_is_content(family: str, text: str) -> None:
    """Without functions to call, every character comes out again."""
    assert read(ReplyForm(family), [text], {}) == ([Content(text)] if text else [])


@given(st.sampled_from(FAMILIES), st.text(alphabet=st.characters(exclude_characters="<[{")))
def test_a_call_behind_anything(family: str, before: str) -> None:
    """Content, then the call; the space between them belongs to neither."""
    if family == "llama3" and before.strip():
        before += "<|python_tag|>"
    marker = CALL_MARKERS[family][0]
    text = before + CALL[family] % ARGUMENTS + "\n "
    found = read(ReplyForm(family), [text])
    assert found[-2:] == looked()
    assert read(ReplyForm(family), list(text)) == found
    said = "".join(d.text for d in found[:-2] if isinstance(d, Content))
    assert said.rstrip() == before.removesuffix(marker).rstrip()


def _twice_inside(text: str, between: str = "") -> str:
    """The same call again between a DeepSeek's markers of all calls."""
    begin, end = CALL_MARKERS["deepseek"][:2]
    call = text.removeprefix(begin).removesuffix(end)
    return begin + between.join([call, call]) + end


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", CALL["hermes"] * 2),
        ("hermes", "\n\n".join([CALL["hermes"]] * 2)),
        ("hermes", '<tool_call>{"name": "look", "arguments": %s} ' * 2),
        ("llama3", "; ".join([CALL["llama3"]] * 2)),
        ("llama3", "\n".join([CALL["llama3"]] * 2)),
        ("llama3", f"<|python_tag|>{CALL['llama3']}" * 2),
        ("llama3", '{"type": "function", "name": "look", "parameters": %s}\n' * 2),
        ("mistral", CALL["mistral"][:-1] + ', {"name": "look", "arguments": %s, "id": "a"}]'),
        ("mistral_args", CALL["mistral_args"] * 2),
        ("mistral_args", "[TOOL_CALLS]look%s" * 2),
        ("deepseek", CALL["deepseek"] * 2),
        ("deepseek", _twice_inside(CALL["deepseek"], "\n")),
        ("deepseek_v31", _twice_inside(CALL["deepseek_v31"])),
    ],
)
def test_several_calls(family: str, text: str) -> None:
    """They are numbered, and nothing else comes of what stands around them."""
    text = text.replace("%s", ARGUMENTS)
    assert read(ReplyForm(family), [text]) == looked() + looked(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_several_calls_only_so_many(family: str) -> None:
    """What comes behind the last one that is wanted is content, as it stands."""
    call = CALL[family] % ARGUMENTS
    found = read(ReplyForm(family), [f"{call};{call}"], most=1)
    assert found == [*looked(), Content(f";{call}")]


@pytest.mark.parametrize(
    ("members", "arguments"),
    [
        ('"name": "look", "arguments": {}', "{}"),
        ('"name": "look", "parameters": {"a": "\\"}"}', '{"a": "\\"}"}'),
        ('"name": "look"', "{}"),
        ('"name": "look", "arguments": null', "{}"),
        ('"name": "look", "arguments": "{\\"a\\": 1}"', '{"a": 1}'),
        ('"arguments": {"a": {}}, "name": "look"', '{"a": {}}'),
        (
            '"id": 7, "x": {"arguments": {"y": 1}}, "name": "look", "arguments": {"a": 1}',
            '{"a": 1}',
        ),
        ('"name": "look", "arguments": {"a": 1}, "more": [{}]', '{"a": 1}'),
        (f'"x": "{"y" * HEAD_MAX}", "name": "look", "arguments": {{"a": 1}}', '{"a": 1}'),
    ],
)
def test_members_of_a_call(members: str, arguments: str) -> None:
    """In any order, arguments as an object, as its text, or none."""
    text = "<tool_call>{" + members + "}</tool_call>"
    assert read(ReplyForm("hermes"), [text]) == looked(arguments=arguments)


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "look",
        '{"name": "other", "arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"name": ["look"], "arguments": {}}',
        '{"name": "look", "arguments": [1]}',
        '{"name": "look", "arguments": "x"}',
        '{"name": "look", "arguments": 5}',
        '{"name": "look", "arguments" {}}',
        '{"name": "look", "arguments": NaN}',
        '{"name": "look"',
        '{"x": ' + "[" * DEPTH_MAX,
        '{"x": "' + "y" * HELD_MAX + '", "name": "look"}',
    ],
)
def test_what_is_no_call_is_content(inner: str) -> None:
    """With its markers, and the space around them."""
    text = f"so \n<tool_call> {inner}</tool_call> it is"
    assert read(ReplyForm("hermes"), [text]) == [Content(text)]


@pytest.mark.parametrize(
    "text", ['{"a": {"name": "look"}}', '{"name": "look" or so}', "{", "so {}"]
)
def test_other_json_of_a_llama_is_content(text: str) -> None:
    """An answer that begins with a brace is no call for that."""
    assert read(ReplyForm("llama3"), [text]) == [Content(text)]


def test_a_call_in_the_middle_of_an_answer_of_a_llama_is_content() -> None:
    """Without its marker it is an example, not a call."""
    text = "Such as " + CALL["llama3"] % "{}"
    assert read(ReplyForm("llama3"), [text]) == [Content(text)]


def test_arguments_that_turn_out_to_be_no_json_end_the_call() -> None:
    """What came of them stays, what follows is content."""
    text = '<tool_call>{"name": "look", "arguments": {"a": </tool_call> Sorry.'
    sorry = Content("</tool_call> Sorry.")
    assert read(ReplyForm("hermes"), [text]) == [*looked(arguments='{"a": '), sorry]


def test_an_answer_that_is_cut_short_ends_in_its_call() -> None:
    """As when there were no tokens left."""
    text = CALL["hermes"] % '{"a": "x\\'
    found = read(ReplyForm("hermes"), [text[: text.index("\\") + 1]])
    assert found == looked(arguments='{"a": "x\\')


def test_arguments_come_as_they_are_written() -> None:
    """A long call can be followed."""
    parser = ReplyParser(ReplyForm("hermes"), FUNCTIONS)
    assert parser.push('<tool_call>{"name": "look", "arguments": ') == []
    assert parser.push('{"te') == [CallBegin(0, "look"), CallArguments(0, '{"te')]
    assert parser.push('xt": "abc') == [CallArguments(0, 'xt": "abc')]


@pytest.mark.parametrize(
    ("thoughts", "text", "thought", "said"),
    [
        ("may", "<think>\nhm <b>\n</think>\n\nYes.", "hm <b>", "Yes."),
        ("may", " \n<think>hm</think>", "hm", ""),
        ("may", "<think>hm", "hm", ""),
        ("may", "<think>hm </thin", "hm </thin", ""),
        ("may", "<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("may", "Yes <think>hm</think>", "", "Yes <think>hm</think>"),
        ("may", " <thin", "", " <thin"),
        ("may", " Yes. ", "", " Yes. "),
        ("open", "\nhm\n</think>\nYes </think>", "hm", "Yes </think>"),
        ("open", "hm", "hm", ""),
        ("", "<think>hm</think>", "", "<think>hm</think>"),
        ("other", "<think>hm</think>", "", "<think>hm</think>"),
    ],
)
def test_thoughts(thoughts: str, text: str, thought: str, said: str) -> None:
    """At the beginning of the answer, and only where the template marks them."""
    found = read(ReplyForm("", thoughts), [text])
    assert "".join(d.text for d in found if isinstance(d, Thoughts)) == thought
    assert "".join(d.text for d in found if isinstance(d, Content)) == said


def test_a_call_behind_thoughts() -> None:
    """A call in the thoughts is one of them."""
    call = CALL["hermes"] % ARGUMENTS
    found = read(ReplyForm("hermes", "open"), [f"{call} or\n</think>\n{call}"])
    assert found == [Thoughts(f"{call} or"), *looked()]
    call = CALL["llama3"] % ARGUMENTS
    found = read(ReplyForm("llama3", "may"), [f"<think>hm</think>\n{call}"])
    assert found == [Thoughts("hm"), *looked()]


@pytest.mark.parametrize(
    "text", ["<tool_call>{", '{"a":', '<tool_call>{"a":{"arguments":', " so", " "]
)
def test_much_text_at_once(text: str) -> None:
    """More than is worked on at a time: nothing is held back for good, nothing is lost."""
    parser = ReplyParser(ReplyForm("hermes", "may"), FUNCTIONS)
    whole = text * (4 * HELD_MAX // len(text))
    deltas = parser.push(whole)
    assert len(deltas) == 1, "neighbours of one kind come as one"
    assert sum(len(d.text) for d in deltas if isinstance(d, Content)) > 2 * HELD_MAX
    deltas += parser.finish()
    assert "".join(delta.text for delta in deltas if isinstance(delta, Content)) == whole


@pytest.mark.parametrize("family", CALL_MARKERS)
@pytest.mark.parametrize("unit", ["m", "mc", "c<", " ", "o", "{", "h"])
def test_hostile_text_is_never_held_back_for_long(family: str, unit: str) -> None:
    """Half a megabyte of markers, of heads, of unfinished calls in one another, of what ends them
    in the wrong order: as it comes it is decided.
    """
    markers, calls = CALL_MARKERS[family], CALL | TAGGED | {HARMONY: HARMONIES[0]}
    call = calls[family].replace("%s", ARGUMENTS)
    texts = {
        "m": markers[0],
        "mc": call[: len(call) * 2 // 3],
        "c<": call[: len(call) // 2] + "<",
        "o": "".join(reversed(markers)),
        "h": call[: len(call) // 3],
    }
    text = texts.get(unit, unit)
    parser = ReplyParser(ReplyForm(family), FUNCTIONS)
    for _ in range(512):
        parser.push(text * (1024 // len(text)))
    held = parser.finish()
    assert sum(
        len(delta.name if isinstance(delta, CallBegin) else delta.text) for delta in held
    ) <= (HELD_MAX + 1024)
