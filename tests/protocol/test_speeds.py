"""How fast nodes turned out to be."""

import pytest

from protocol import speeds as under_test
from protocol.identity import NodeId
from protocol.speeds import (
    TOLD_EVERY_NS,
    UNKNOWN,
    ServedSpeed,
    Speed,
    Speeds,
    speed_in,
    typical,
)

NODE, OTHER = NodeId(b"a" * 32), NodeId(b"b" * 32)


def _note(speeds: Speeds, *, first_ms: int = 100, rest_ms: int = 990, **more: int) -> Speed | None:
    rest_ns = rest_ms * 10**6
    values = {"prompt_tokens": 100, "output_tokens": 100, "waited_ns": rest_ns, **more}
    speeds.note(NODE, "m", first_ns=first_ms * 10**6, rest_ns=rest_ns, **values)
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


def test_who_reads_slowly_changes_nothing_of_what_is_known() -> None:
    """A node is no faster than what was waited for it and no slower than all of it took: what is
    known and lies between stays, and what is not is what most are.
    """
    speeds = Speeds()
    unknown = _note(speeds, rest_ms=9_900, waited_ns=0)
    assert unknown == Speed(10**6, UNKNOWN.decode_ns)
    assert _note(Speeds(), rest_ms=990, waited_ns=0) == Speed(10**6, 10**7)
    assert _note(Speeds(), rest_ms=9_900, waited_ns=99 * 10**8) == Speed(10**6, 10**8)
    measured = ServedSpeed()
    _served(measured, 10, times=10)
    _served(measured, 500, times=10, waited_ms=0)
    assert measured.news(0) is not None
    assert measured.told is not None
    assert measured.told.decode_ns == pytest.approx(10**7, rel=1e-3)


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
        values = dict.fromkeys(("prompt_tokens", "output_tokens", "rest_ns", "waited_ns"), 9)
        speeds.note(NODE, model, first_ns=9, **values)
    known = [model for model in "abc" if speeds.of(NODE, model) is not None]
    assert known == ["a", "c"]


def test_the_unknown_are_as_most_are() -> None:
    """The median of those that are known; a guess where nobody is."""
    assert typical([None, None]) == UNKNOWN
    assert typical([Speed(1, 30), None, Speed(2, 10), Speed(9, 20)]) == Speed(2, 20)


def _served(
    measured: ServedSpeed, token_ms: int, times: int = 1, *, waited_ms: int | None = None
) -> None:
    for _ in range(times):
        measured.note(
            prompt_tokens=100,
            prefill_ns=10 * token_ms * 10**6,
            output_tokens=101,
            rest_ns=100 * token_ms * 10**6,
            waited_ns=100 * (token_ms if waited_ms is None else waited_ms) * 10**6,
        )


def test_what_is_measured_is_told_when_it_differs() -> None:
    """At once the first time; then a quarter away from what was told, and not too often."""
    measured = ServedSpeed()
    assert measured.news(0) is None
    _served(measured, 10)
    assert measured.news(1) == measured.told == Speed(10**6, 10**7)
    _served(measured, 11, times=100)
    assert measured.news(1 + TOLD_EVERY_NS) is None, "a tenth is no news"
    _served(measured, 20, times=200)
    assert measured.news(TOLD_EVERY_NS) is None, "too soon"
    told = measured.news(1 + TOLD_EVERY_NS)
    assert told == measured.told
    assert told is not None
    assert told.decode_ns == pytest.approx(20 * 10**6, rel=0.02)
    assert measured.news(1 + 2 * TOLD_EVERY_NS) is None


def test_long_requests_say_more_of_a_speed_than_short_ones() -> None:
    """A few tokens are mostly overhead."""
    measured = ServedSpeed()
    _served(measured, 10, times=10)
    for tokens, ns in ((5, 10**9), (3, 10**12)):
        measured.note(
            prompt_tokens=tokens,
            prefill_ns=ns,
            output_tokens=tokens + 1,
            rest_ns=ns,
            waited_ns=ns,
        )
    told = measured.news(0)
    assert told is not None
    assert told.decode_ns < 12 * 10**6


@pytest.mark.parametrize(
    "told",
    [
        *[{"prefill_ns": value, "decode_ns": 10**6} for value in (0, -1, 10**12, True, "x", None)],
        *[{"prefill_ns": 10**6, "decode_ns": value} for value in (0, -1, 2**63, 1.5, b"x")],
        {"prefill_ns": 10**6},
        {},
    ],
)
def test_a_speed_that_makes_no_sense_is_none(told: dict[str, object]) -> None:
    """Whoever tells it."""
    assert speed_in(told) is None
    assert speed_in(Speed(10**6, 10**7).to_fields()) == Speed(10**6, 10**7)
