"""How fast nodes turned out to be."""

import pytest

from protocol import speeds as under_test
from protocol.identity import NodeId
from protocol.speeds import UNKNOWN, Speed, Speeds, typical

NODE, OTHER = NodeId(b"a" * 32), NodeId(b"b" * 32)


def _note(speeds: Speeds, *, first_ms: int = 100, rest_ms: int = 990, **more: int) -> Speed | None:
    values = {"prompt_tokens": 100, "output_tokens": 100, **more}
    speeds.note(NODE, "m", first_ns=first_ms * 10**6, rest_ns=rest_ms * 10**6, **values)
    return speeds.of(NODE, "m")


def test_speeds_are_of_a_node_and_a_model() -> None:
    """Tokens after the first share the rest of the time; nothing is known of others."""
    speeds = Speeds()
    assert _note(speeds) == Speed(prefill_ns=10**6, decode_ns=10**7)
    assert speeds.of(NODE, "another") is None
    assert speeds.of(OTHER, "m") is None


def test_decode_is_smoothed() -> None:
    """One slow answer moves it by a quarter."""
    speeds = Speeds()
    _note(speeds, rest_ms=990)
    slower = _note(speeds, rest_ms=1_980)
    assert slower is not None
    assert slower.decode_ns == 12_500_000


def test_waiting_is_not_taken_for_slow_prefill() -> None:
    """A first token that came late moves it a little, one that came early at once."""
    speeds = Speeds()
    _note(speeds, first_ms=100)
    late = _note(speeds, first_ms=10_000)
    assert late is not None
    assert late.prefill_ns <= 1_050_001
    early = _note(speeds, first_ms=50)
    assert early is not None
    assert early.prefill_ns == 500_000


@pytest.mark.parametrize("more", [{"output_tokens": 3}, {"prompt_tokens": 0}])
def test_nothing_is_learned_from_next_to_nothing(more: dict[str, int]) -> None:
    """Three tokens tell no speed."""
    assert _note(Speeds(), **more) is None


def test_texts_that_are_embedded_are_a_prompt() -> None:
    """Their tokens share all of the time; nothing is learned of answers."""
    speeds = Speeds()
    speeds.note_texts(NODE, "m", tokens=0, all_ns=10**9)
    assert speeds.of(NODE, "m") is None
    speeds.note_texts(NODE, "m", tokens=100, all_ns=10**8)
    assert speeds.of(NODE, "m") == Speed(10**6, UNKNOWN.decode_ns)
    speeds.note_texts(NODE, "m", tokens=10, all_ns=10**6)
    assert speeds.of(NODE, "m") == Speed(10**5, UNKNOWN.decode_ns)


def test_absurd_times_are_bounded() -> None:
    """A clock that stood still, or a night between two tokens."""
    assert _note(Speeds(), first_ms=0, rest_ms=0) == Speed(1_000, 1_000)
    slow = _note(Speeds(), first_ms=10**12, rest_ms=10**12)
    assert slow == Speed(60 * 10**9, 60 * 10**9)


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was not heard of for longest goes."""
    monkeypatch.setattr(under_test, "ENTRIES_MAX", 2)
    speeds = Speeds()
    for model in ("a", "b", "a", "c"):
        speeds.note(NODE, model, prompt_tokens=9, first_ns=9, output_tokens=9, rest_ns=9)
    known = [model for model in "abc" if speeds.of(NODE, model) is not None]
    assert known == ["a", "c"]


def test_the_unknown_are_as_most_are() -> None:
    """The median of those that are known; a guess where nobody is."""
    assert typical([None, None]) == UNKNOWN
    assert typical([Speed(1, 30), None, Speed(2, 10), Speed(9, 20)]) == Speed(2, 20)
