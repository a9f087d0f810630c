"""The log of what happened lately: its form, its bounds, and that no gap goes untold."""

import datetime
import typing
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.event_log import EVENTS_KEPT, LAGGED, Event, EventLog, event_of
from protocol.effects import (
    Admitted,
    Effect,
    Equivocated,
    LoadLearned,
    MembersDirty,
    MembershipChanged,
    OffersChanged,
    Partitioned,
    Persist,
    Reunited,
    Superseded,
)
from protocol.identity import NodeId, key_text
from protocol.members import State
from protocol.messages import Load
from protocol.statements import Offer

OWN = NodeId(b"o" * 32)
OTHER = NodeId(b"x" * 32)
DEADLINE_S = 10.0


def _name(node: NodeId) -> str:
    return "anna" if node == OWN else "bert"


def _log() -> EventLog:
    return EventLog(OWN, _name)


def _fill(log: EventLog, count: int) -> None:
    for number in range(count):
        log.note(Reunited(number))


async def _after(log: EventLog, seen: int) -> Sequence[Event]:
    with trio.fail_after(DEADLINE_S):
        return await log.after(seen)


def _now_after(log: EventLog, seen: int) -> Sequence[Event]:
    """What is there for who has seen that; nothing to wait for."""
    return trio.run(_after, log, seen)


def _offer(value: bytes) -> Offer:
    return Offer(OTHER, 3, "model/demo", value, b"")


# ---- the form ----


@pytest.mark.parametrize(
    ("effect", "event"),
    [
        (
            MembershipChanged(OTHER, "carl", State.ALIVE, 7, None),
            {"type": "alive", "name": "carl", "incarnation": 7, "previous": None},
        ),
        (
            MembershipChanged(OTHER, "", State.DEAD, 7, State.SUSPECT),
            {"type": "dead", "name": "bert", "incarnation": 7, "previous": "suspect"},
        ),
        (OffersChanged(OTHER, _offer(b"x")), {"type": "offer", "removed": False}),
        (OffersChanged(OTHER, _offer(b"")), {"type": "offer", "removed": True}),
        (Partitioned(5, 4), {"type": "partition", "name": "anna", "lost": 5, "present": 4}),
        (Reunited(9), {"type": "reunited", "name": "anna", "present": 9}),
        (Superseded(12), {"type": "superseded", "name": "anna", "incarnation": 12}),
        (Equivocated(OTHER), {"type": "equivocation", "name": "bert"}),
    ],
)
def test_each_effect_has_its_event(effect: Effect, event: Event) -> None:
    """Field by field; about this node itself where the effect has no other subject."""
    if isinstance(effect, OffersChanged):
        event = {**event, "name": "bert", "key": "model/demo"}
    node = OWN if event["name"] == "anna" else OTHER
    assert event_of(effect, OWN, _name) == {**event, "node": key_text(node)}


@pytest.mark.parametrize("state", list(State))
def test_every_state_is_a_type(state: State) -> None:
    """Each under its own word."""
    event = event_of(MembershipChanged(OTHER, "carl", state, 1, state), OWN, _name)
    assert event is not None
    assert (event["type"], event["previous"]) == (str(state), str(state))


@pytest.mark.parametrize(
    "effect", [MembersDirty(), Persist(1, 1), Admitted(OTHER), LoadLearned(OTHER, Load(0, 0, 0))]
)
def test_what_is_not_for_people_is_no_event(effect: Effect) -> None:
    """Neither kept nor counted."""
    log = _log()
    before = log.last_id
    log.note(effect)
    assert (log.last_id, log.recent(5)) == (before, [])


def test_events_have_an_id_and_a_time() -> None:
    """Ids grow by one; the time is UTC, to the millisecond."""
    log = _log()
    _fill(log, 3)
    first, second, third = log.recent(3)
    assert [second["id"] - first["id"], third["id"] - second["id"]] == [1, 1]
    assert third["id"] == log.last_id < 2**53, "JavaScript can hold it"
    when = datetime.datetime.fromisoformat(first["time"])
    assert when.utcoffset() == datetime.timedelta(0)
    assert abs((datetime.datetime.now(datetime.UTC) - when).total_seconds()) < DEADLINE_S
    assert list(first)[:5] == ["id", "time", "type", "node", "name"]


# ---- the bounds ----


def test_the_oldest_go() -> None:
    """No more than so many are kept, and those are the newest."""
    log = _log()
    _fill(log, EVENTS_KEPT + 5)
    kept = log.recent(EVENTS_KEPT + 5)
    assert [event["present"] for event in kept] == list(range(5, EVENTS_KEPT + 5))
    assert [event["present"] for event in log.recent(2)] == [EVENTS_KEPT + 3, EVENTS_KEPT + 4]
    assert log.recent(0) == []


def test_a_slow_one_is_told_what_it_missed_and_goes_on() -> None:
    """How many, then all that is kept; under an id that is a place to go on from."""
    log = _log()
    _fill(log, 1)
    seen = log.last_id
    _fill(log, EVENTS_KEPT + 7)
    lagged, *kept = _now_after(log, seen)
    assert (lagged["type"], lagged["missed"], lagged["node"]) == (LAGGED, 7, key_text(OWN))
    assert lagged["id"] == seen + 7 == kept[0]["id"] - 1
    assert kept == log.recent(EVENTS_KEPT)
    assert _now_after(log, lagged["id"]) == kept, "whoever broke off after it"


def test_who_is_just_in_time_misses_nothing() -> None:
    """The oldest that is kept is the next one."""
    log = _log()
    _fill(log, 1)
    seen = log.last_id
    _fill(log, EVENTS_KEPT)
    assert _now_after(log, seen) == log.recent(EVENTS_KEPT)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, EVENTS_KEPT + 50), max_size=8))
def test_no_gap_goes_untold(bursts: list[int]) -> None:
    """Whatever comes between two looks: seen and missed together are all, in order."""
    log = _log()
    seen = start = log.last_id
    counted = 0
    for burst in bursts:
        _fill(log, burst)
        if not burst:
            continue  # nothing to see: `after` would wait
        for event in _now_after(log, seen):
            counted += event["missed"] if event["type"] == LAGGED else 1
            assert event["id"] == start + counted
        seen = start + counted
    assert start + counted == log.last_id


# ---- coming back ----


def test_who_comes_back_goes_on_where_it_was() -> None:
    """After any event that is kept."""
    log = _log()
    _fill(log, 10)
    events = log.recent(10)
    for number, event in enumerate(events[:-1]):
        assert _now_after(log, event["id"]) == events[number + 1 :]


def test_zero_is_the_beginning_of_this_run() -> None:
    """All of it, and what of it is no longer kept is counted."""
    log = _log()
    _fill(log, 3)
    assert _now_after(log, 0) == log.recent(3)
    _fill(log, EVENTS_KEPT)
    assert _now_after(log, 0)[0]["missed"] == 3


def test_who_comes_from_an_earlier_run_is_told_so() -> None:
    """It gets all of this run, after a word that nobody knows what it missed."""
    earlier = _log()
    _fill(earlier, 40)
    log = _log()
    assert log.last_id > earlier.last_id, "no id is given twice"
    [only] = _now_after(log, earlier.last_id)
    assert (only["type"], only["missed"], only["id"]) == (LAGGED, None, log.last_id)
    _fill(log, 3)
    for foreign in (1, earlier.last_id, log.last_id + 1, 10**18):
        lagged, *rest = _now_after(log, foreign)
        assert (lagged["type"], lagged["missed"]) == (LAGGED, None)
        assert rest == log.recent(3)
        assert lagged["id"] == only["id"]


def test_where_so_many_follow() -> None:
    """The place from which the newest few are seen."""
    log = _log()
    _fill(log, 5)
    assert _now_after(log, log.id_before(2)) == log.recent(2)
    assert log.id_before(0) == log.last_id
    assert _now_after(log, log.id_before(EVENTS_KEPT)) == log.recent(5)


# ---- waiting ----


def test_all_who_wait_are_woken() -> None:
    """Each gets every event, whoever else listens, and nobody before there is one."""

    async def main() -> None:
        log = _log()
        got: list[Sequence[Event]] = []

        async def follower() -> None:
            seen = log.last_id
            for _ in range(2):
                events = await _after(log, seen)
                got.append(events)
                seen = events[-1]["id"]

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(follower)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            _fill(log, 2)
            await trio.testing.wait_all_tasks_blocked()
            assert got == [log.recent(2)] * 3
            _fill(log, 1)
        assert got[3:] == [log.recent(1)] * 3

    trio.run(main)


def test_every_effect_is_decided_about() -> None:
    """A new kind of effect is an event or is named here."""
    no_events = {
        "SendDatagram",
        "OpenStream",
        "AnswerStream",
        "Persist",
        "MembersDirty",
        "LoadLearned",
        "Admitted",
        "CaughtUp",
        "Issued",
        "JoinRefused",
        "DatagramDropped",
    }
    events = {
        "MembershipChanged",
        "OffersChanged",
        "Partitioned",
        "Reunited",
        "Superseded",
        "Equivocated",
        "Evicted",
    }
    assert {kind.__name__ for kind in typing.get_args(Effect)} == no_events | events
