"""Server-sent events, wherever the network cuts them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.openai.event_lines import LINE_BYTES_MAX, EventLines

STREAM = (
    b": ping\r\n\r\ndata: {\"a\":1}\n\ndata:{}\r\n\r\nevent: x\nid: 1\nretry: 5\nid\n"
    b"error: {\"message\":\"no\"}\n\ndata: \xc3\xa9\n\ndata:\n\ndata: [DONE]"
)  # fmt: skip
PAYLOADS = [b'{"a":1}', b"{}", b'{"error":{"message":"no"}}', b"\xc3\xa9", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    """The same payloads come out of any pieces."""
    lines = EventLines()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = [p for a, b in itertools.pairwise(edges) for p in lines.push(STREAM[a:b])]
    assert found + lines.finish() == PAYLOADS


@pytest.mark.parametrize("junk", [b"<html>\n", b"{}\n", b"\0\n", b"hello\r\n", b"dat: x\n"])
def test_what_is_no_stream_is_said_so(junk: bytes) -> None:
    """A line of no known field is the end."""
    with pytest.raises(RuntimeFailure) as failed:
        EventLines().push(b"data: {}\n\n" + junk)
    assert failed.value.code == "crashed"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_has_a_limit(end: bytes) -> None:
    """With its end or without, in one piece or in many."""
    with pytest.raises(RuntimeFailure, match="bytes"):
        EventLines().push(b"data: " + b"x" * LINE_BYTES_MAX + end)
    lines = EventLines()
    lines.push(b":" + b"x" * (LINE_BYTES_MAX - 1))
    with pytest.raises(RuntimeFailure, match="bytes"):
        lines.push(b"x")


def test_a_line_just_within_the_limit_passes() -> None:
    """The limit is what it says."""
    text = b"x" * (LINE_BYTES_MAX - len(b"data:"))
    assert EventLines().push(b"data:" + text + b"\n") == [text]
