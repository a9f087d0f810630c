"""Bytes in, decided text out: the same however the bytes were cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from runtimes.completion_text import CompletionText

ALPHABET = st.text(alphabet="ab~é👩", max_size=30)
STOPS = st.lists(st.text(alphabet="ab~é👩", min_size=1, max_size=4), max_size=3).map(tuple)
CUTS = st.lists(st.integers(min_value=0, max_value=120), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data`, cut at `cuts`."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def run(data: bytes, cuts: list[int], stops: tuple[str, ...]) -> tuple[str, bool]:
    """The whole text, and whether a stop string ended it."""
    text = CompletionText(stops)
    whole = "".join(text.push(piece) for piece in pieces(data, cuts))
    return whole + text.finish(), text.stopped


def first_stop(text: str, stops: tuple[str, ...]) -> str | None:
    """What stands before the stop string that is complete first; the longest of equals."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(text=ALPHABET, cuts=CUTS, stops=STOPS)
def test_the_result_is_that_of_a_plain_search(
    text: str, cuts: list[int], stops: tuple[str, ...]
) -> None:
    """Cut anywhere, inside characters too, the outcome is what a search in the whole text finds."""
    expected = first_stop(text, stops)
    whole, stopped = run(text.encode(), cuts, stops)
    assert stopped == (expected is not None)
    assert whole == (text if expected is None else expected)


@given(data=st.binary(max_size=60), cuts=CUTS)
def test_any_bytes_become_unicode(data: bytes, cuts: list[int]) -> None:
    """Bytes that are no UTF-8 are replaced, alike for all cuts; an unfinished end is dropped."""
    whole, _ = run(data, cuts, ())
    assert whole == run(data, [], ())[0]
    assert data.decode("utf-8", "replace").startswith(whole)
    whole.encode()


def test_what_cannot_become_a_stop_string_comes_at_once() -> None:
    """Only the longest end of the text that may still grow into a stop string waits."""
    text = CompletionText(("aab",))
    assert text.push(b"xa") == "x"
    assert text.push(b"a") == ""
    assert text.push(b"a") == "a"
    assert text.push(b"c") == "aac"


def test_nothing_comes_after_a_stop_string() -> None:
    """Text behind the stop string, even from the same token, is not part of the answer."""
    text = CompletionText(("END",))
    assert text.push(b"one EN") == "one "
    assert text.push(b"D two") == ""
    assert text.stopped
    assert text.push(b"three") == ""
    assert text.finish() == ""


def test_an_unfinished_character_waits() -> None:
    """A chunk never carries half a character."""
    euro = "€".encode()
    text = CompletionText()
    assert text.push(euro[:2]) == ""
    assert text.push(euro[2:]) == "€"
