"""What `meshd explain` tells of a request."""

import json

from meshd.candidates import Ranking
from meshd.story import ATTEMPTS_MAX, STORIES_MAX, Stories, Story
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.routing import Candidate
from protocol.speeds import Speed
from runtimes.base import Finished

ANNA, BERT, CLEO = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
NAMES = {ANNA: "anna", BERT: "bert", CLEO: "cleo"}
MS = 1_000_000


def _story(request_id: str = "ab") -> Story:
    return Story(request_id, "m", asked_at=100.0, wall_s=1_700_000_000, name=NAMES.__getitem__)


def _ranking() -> Ranking:
    fast = Candidate(
        node=ANNA, is_alive=True, load=Load(1, 2, 4), round_trip_ns=2 * MS, speed=Speed(MS, 10 * MS)
    )
    unknown = Candidate(node=BERT, is_alive=True, load=None, failed_ago_ns=5)
    return Ranking(
        policy="fastest",
        demand=Demand(prompt_tokens=100, output_tokens=50),
        ranked=[fast, unknown],
        left_out=[(CLEO, "it is under suspicion")],
    )


def test_the_parts_of_what_was_expected_make_the_whole() -> None:
    """Wait, prefill, decode and round trip of each candidate, in milliseconds."""
    story = _story()
    story.note_ranking(_ranking())
    told = story.told(101.0)
    anna, bert = told["candidates"]
    assert (anna["node"], anna["prefill_ms"], anna["decode_ms"]) == ("anna", 100.0, 500.0)
    for row in (anna, bert):
        parts = ("wait_ms", "prefill_ms", "decode_ms", "round_trip_ms")
        assert row["total_ms"] == sum(row[part] for part in parts)
    assert (anna["is_speed_known"], bert["is_speed_known"]) == (True, False)
    assert (anna["failed_lately"], bert["failed_lately"]) == (False, True)
    assert [(row["node"], row["reason"]) for row in told["left_out"]] == [
        ("cleo", "it is under suspicion")
    ]


def test_attempts_are_told_with_their_times() -> None:
    """Since the request came; a second one that gives tokens is a continuation."""
    story = _story()
    first = story.begin_try(ANNA, 100.5, 0)
    first.started_at, first.first_at, first.ended_at, first.tokens = 100.6, 100.75, 103.0, 7
    first.code, first.reason = "unavailable", "it fell silent"
    second = story.begin_try(BERT, 103.0, 7)
    story.continuations += 1
    running = story.told(104.0)
    assert (running["state"], running["duration_s"]) == ("running", 4.0)
    second.ended_at = 105.0
    story.done(Finished("length", 3, 9))
    story.end(105.0)
    told = story.told(999.0)
    assert (told["state"], told["duration_s"], told["continuations"]) == ("done", 5.0, 1)
    assert told["usage"]["completion_tokens"] == 9
    lost, rest = told["attempts"]
    assert (lost["node"], lost["asked_s"], lost["first_token_s"]) == ("anna", 0.5, 0.75)
    assert lost["failure"] == {"code": "unavailable", "reason": "it fell silent"}
    assert (rest["is_continuation"], rest["tokens_before"], rest["failure"]) == (True, 7, None)
    assert json.loads(json.dumps(told)) == told


def test_how_it_ended_is_told() -> None:
    """With a failure, or because its app went away."""
    failed, left = _story(), _story()
    failed.fail(102.0, "interrupted", "it broke off")
    failed.end(103.0)
    left.end(103.0)
    assert failed.told(200.0)["error"] == {"code": "interrupted", "message": "it broke off"}
    assert (failed.told(200.0)["state"], failed.told(200.0)["duration_s"]) == ("failed", 2.0)
    assert left.told(200.0)["state"] == "cancelled"


def test_everything_is_bounded() -> None:
    """Attempts of one request, and requests."""
    story = _story()
    for _ in range(ATTEMPTS_MAX + 5):
        story.begin_try(ANNA, 100.0, 0)
    told = story.told(101.0)
    assert (len(told["attempts"]), told["attempts_forgotten"]) == (ATTEMPTS_MAX, 5)
    stories = Stories()
    for number in range(STORIES_MAX + 1):
        stories.add(_story(str(number)))
    assert stories.find("0") is None
    assert stories.find("1") is not None
    assert stories.find(str(STORIES_MAX)) is not None
