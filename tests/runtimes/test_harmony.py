"""Answers in Harmony's form: thoughts, calls and what is said, from the channels of messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.reply_delta import CallArguments, CallBegin, Content, Delta, Thoughts
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from runtimes.reply_reader import HEAD_MAX
from tests.runtimes.test_reply_parser import ARGUMENTS, HARMONIES, looked, read

FORM = ReplyForm(HARMONY, "may")
THOUGHT = "<|channel|>analysis<|message|>hm <b>\n<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (THOUGHT + "<|channel|>final<|message|> Yes.", [Thoughts("hm <b>\n"), Content(" Yes.")]),
        ("<|channel|>final<|message|>Yes.<|return|>", [Content("Yes.")]),
        ("<|channel|>commentary<|message|>I look.<|end|>", [Content("I look.")]),
        ("<|channel|>analysis<|message|>hm", [Thoughts("hm")]),
        ("<|channel|>analysis<|message|>hm<|en", [Thoughts("hm<|en")]),
        ("<|message|>Yes.", [Content("Yes.")]),
        ("Yes.", [Content("Yes.")]),
        ("to", [Content("to")]),
        ("to=be or not to be", [Content("to=be or not to be")]),
        ("to=", [Content("to=")]),
        ("to=functions.lo", []),
        ("<b>Yes.", [Content("<b>Yes.")]),
        ("<|channel|>fin", []),
        (THOUGHT + "<|chan", [Thoughts("hm <b>\n")]),
        ("<|channel|>final<|message|>a<|end|> b", [Content("a b")]),
        ("<|start|>" + "x" * HEAD_MAX, [Content("<|start|>" + "x" * HEAD_MAX)]),
        (
            "<|channel|>commentary to=functions.other<|message|>{}<|call|>",
            [Content("{}")],
        ),
        ("<|channel|>commentary to=browser.look<|message|>{}", [Content("{}")]),
        ("<|channel|>commentary to=functions.look<|message|>so", [Content("so")]),
        (
            '<|channel|>commentary to=functions.look<|message|>{"a": <|call|>so',
            [CallBegin(0, "look"), CallArguments(0, '{"a": '), Content("so")],
        ),
    ],
)
def test_messages_by_their_channels(text: str, found: list[Delta]) -> None:
    """Whole and letter by letter; heads and markers are not told."""
    assert read(FORM, [text]) == found
    assert read(FORM, list(text)) == found


@pytest.mark.parametrize("call", HARMONIES)
def test_a_call_goes_to_a_function(call: str) -> None:
    """With its recipient before or behind the channel, behind thoughts or not, twice or once."""
    text = call % ARGUMENTS
    assert read(FORM, [text]) == looked()
    assert read(FORM, [text.removesuffix("<|call|>")]) == looked()
    assert read(FORM, [THOUGHT + text]) == [Thoughts("hm <b>\n"), *looked()]
    twice = f"{text}<|start|>assistant{text}"
    assert read(FORM, [twice]) == looked() + looked(1)
    assert read(FORM, [twice], most=1) == [*looked(), Content(ARGUMENTS)]
    assert read(FORM, [text], {}) == [Content(ARGUMENTS)]


def test_an_answer_that_has_begun_goes_on() -> None:
    """In its thoughts, or in what it says."""
    assert read(ReplyForm(HARMONY, "open"), ["hm" + "<|end|><|start|>assistant"]) == [
        Thoughts("hm")
    ]
    assert read(ReplyForm(HARMONY), [" so <|return|>"]) == [Content(" so ")]


@given(st.lists(st.sampled_from(CALL_MARKERS[HARMONY]) | st.text(max_size=5), max_size=20))
def test_any_text_comes_to_an_end(parts: list[str]) -> None:
    """Whatever the order of markers, and without them nothing is lost."""
    found = read(FORM, parts)
    text = "".join(parts)
    if not any(marker in text for marker in CALL_MARKERS[HARMONY]) and "<" not in text:
        assert found == ([Content(text)] if text else [])


def test_much_text_is_read_in_linear_time() -> None:
    """A megabyte of heads that are none."""
    text = "<|start|><|channel|>" * 50_000
    found = read(FORM, [text])
    assert found
    assert sum(len(delta.text) for delta in found if isinstance(delta, Content)) <= len(text)
