"""Where a call begins is seen alike however the text was cut into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.llama.grammars.call_watch import HARMONY_CALL, CallWatch, Watched
from runtimes.reply_delta import CallBegin
from runtimes.reply_form import CALL_MARKERS, HARMONY, ReplyForm
from runtimes.reply_parser import ReplyParser
from runtimes.reply_reader import HEAD_MAX, SPACE_MAX

FAMILIES = tuple(family for family in CALL_MARKERS if family != "llama3")
pieces = st.sampled_from(
    [
        *(marker for family in FAMILIES for marker in CALL_MARKERS[family]),
        *(
            "<think>",
            "</think>",
            "<thi",
            "<tool",
            "_call>",
            HARMONY_CALL,
            " " * SPACE_MAX,
            " ",
            "é",
        ),
    ]
)
texts = st.lists(pieces | st.text(max_size=3), max_size=8).map("".join)


def watch(form: ReplyForm, *tokens: bytes) -> tuple[Watched, bool]:
    """What is known behind tokens, up to the one in which a call begins."""
    calls = CallWatch(form)
    watched = calls.begin
    for token in tokens:
        watched, begun = calls.after(watched, token)
        if begun:
            return watched, True
    return watched, False


@given(st.sampled_from(FAMILIES), st.sampled_from(["", "may", "open"]), texts, st.integers(0, 99))
def test_where_tokens_end_makes_no_difference(
    family: str, thoughts: str, text: str, place: int
) -> None:
    """Byte by byte, in two pieces, or whole."""
    data, form = text.encode(), ReplyForm(family, thoughts)
    cut = place % (len(data) + 1)
    known, begun = watch(form, data)
    assert watch(form, data[:cut], data[cut:])[1] == begun
    by_bytes = watch(form, *(data[at : at + 1] for at in range(len(data))))
    assert by_bytes[1] == begun
    if not begun:
        assert by_bytes[0] == watch(form, data[:cut], data[cut:])[0] == known


@pytest.mark.parametrize(
    ("form", "text", "begins"),
    [
        (ReplyForm("hermes"), "so <tool_call>", True),
        (ReplyForm("hermes"), "so <tool_call", False),
        (ReplyForm("hermes"), "<tool<tool_call>", True),
        (ReplyForm("hermes", "open"), "<tool_call></think", False),
        (ReplyForm("hermes", "open"), "<tool_call></think><tool_call>", True),
        (ReplyForm("hermes", "may"), " <think><tool_call>", False),
        (ReplyForm("hermes", "may"), " <tool_call>", True),
        (ReplyForm("hermes", "may"), " " * (SPACE_MAX + 1) + "<think><tool_call>", True),
        (ReplyForm("deepseek"), "<｜tool▁calls▁begin｜>", True),
        (ReplyForm(HARMONY, "may"), HARMONY_CALL, True),
        (ReplyForm(HARMONY, "may"), "<|channel|>analysis<|message|>" + HARMONY_CALL, False),
        (ReplyForm(HARMONY, "open"), f"hm<|end|><|start|>assistant{HARMONY_CALL}", True),
        (ReplyForm(HARMONY), HARMONY_CALL, False),
        (ReplyForm(HARMONY, "may"), "It is " + HARMONY_CALL, False),
        (ReplyForm(HARMONY, "may"), "to=be" + HARMONY_CALL, False),
        (ReplyForm(HARMONY, "may"), f" so<|end|>{HARMONY_CALL}", True),
        (ReplyForm(HARMONY, "may"), f"so<|end|> <|end|>\n{HARMONY_CALL}", True),
        (ReplyForm(HARMONY, "may"), f"<|en<|end|>{HARMONY_CALL}", True),
        (ReplyForm(HARMONY), f"so<|start|>assistant{HARMONY_CALL}", True),
        (ReplyForm(HARMONY), f"so<|end|> and {HARMONY_CALL}", False),
        (ReplyForm(HARMONY), "so<|start|>" + "x" * HEAD_MAX + HARMONY_CALL, False),
        (ReplyForm(HARMONY), "so<|end|>" + " " * HEAD_MAX + HARMONY_CALL, False),
    ],
)
def test_a_marker_in_thoughts_begins_no_call(form: ReplyForm, text: str, begins: bool) -> None:
    """Nor does half of one."""
    assert watch(form, text.encode())[1] == begins


@given(st.sampled_from(["", "may", "open"]), texts)
def test_a_call_of_harmony_begins_where_one_is_read(thoughts: str, text: str) -> None:
    """Behind any text that is none."""
    form = ReplyForm(HARMONY, thoughts)
    if watch(form, text.encode())[1]:
        return
    _, begins = watch(form, (text + HARMONY_CALL).encode())
    parser = ReplyParser(form, {"f": "{}"})
    deltas = [*parser.push(text + HARMONY_CALL + "f<|message|>{}"), *parser.finish()]
    assert begins == any(isinstance(delta, CallBegin) for delta in deltas)


@pytest.mark.parametrize(
    ("thoughts", "text", "part"),
    [("", "so <tool", 5), ("", "so", 0), ("may", " <t", 2), ("open", "<tool", 0), ("", "<é", 0)],
)
def test_so_much_of_a_marker_has_come(thoughts: str, text: str, part: int) -> None:
    """The grammar begins there."""
    calls = CallWatch(ReplyForm("hermes", thoughts))
    assert calls.marker_part(watch(ReplyForm("hermes", thoughts), text.encode())[0]) == part
