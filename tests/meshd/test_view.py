"""What this node believes, as users see it; whatever others offer, it stays plain and bounded."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from meshd import advertisement, clock
from meshd.offered import TELL_NS, WITHDRAWN_MAX, WITHDRAWN_NS
from meshd.view import OLD_NS, View
from protocol.config import SECOND
from protocol.effects import LoadLearned, MembershipChanged, OffersChanged
from protocol.events import LeaveRequested, OfferChanged
from protocol.identity import NodeId, key_text
from protocol.members import Gone, State
from protocol.messages import Load
from protocol.records import Role
from protocol.routing import SLOTS_BELIEVED_MAX
from protocol.speeds import Speed
from protocol.statements import make_offer
from runtimes.base import ModelCard
from tests.helpers.nodes import Mesh

CARD = ModelCard(
    name="org/demo",
    content_hash="ab" * 32,
    runtime="llama",
    architecture="llama",
    parameters=5,
    quantization="F16",
    size_bytes=240_000,
    context_tokens=2048,
)
KEY = advertisement.model_key(CARD.name)
ROW_KEYS = [
    "id",
    "name",
    "state",
    "incarnation",
    "address",
    "role",
    "owner",
    "labels",
    "tier",
    "hardware",
    "models",
    "load",
    "rtt_ms",
    "version",
]


class Seen:
    """A mesh, and the view of its first machine."""

    def __init__(self, size: int = 3, roles: tuple[Role, ...] = ()) -> None:
        self.mesh = Mesh(size, roles=roles).start_all()
        self.view = View(self.mesh[0])
        self._noted = 0

    def offer(self, index: int, key: str, value: bytes) -> None:
        """Machine `index` offers something, and everybody hears of it."""
        self.mesh.give(index, OfferChanged(key, value))
        self.mesh.settle()
        self.mesh.advance(5 * SECOND)
        self.catch_up()

    def catch_up(self) -> None:
        """Note what happened at the first machine since the last time."""
        log = self.mesh.machines[0].log
        for effect in log[self._noted :]:
            self.view.note(effect)
        self._noted = len(log)

    def row(self, index: int) -> dict[str, Any]:
        """As a client would read it."""
        row = self.view.row(self.mesh.id(index))
        return dict(json.loads(json.dumps(row, allow_nan=False)))


def _changed(mesh: Mesh, index: int, state: State) -> MembershipChanged:
    return MembershipChanged(mesh.id(index), f"n{index}", state, 1, State.ALIVE)


# ---- rows ----


def test_a_row_has_exactly_the_published_form() -> None:
    """Field by field as the interface says; this node has no round trip to itself."""
    seen = Seen()
    seen.offer(1, KEY, advertisement.encode_model(CARD))
    seen.offer(1, "labels", advertisement.encode_map({"zone": "attic"}))
    seen.offer(1, "hardware", advertisement.encode_map({"tier": 2, "cores": 4, "gpus": []}))
    seen.view.note(LoadLearned(seen.mesh.id(1), Load(1, 2, 4)))
    own, other = seen.row(0), seen.row(1)
    assert list(own) == list(other) == ROW_KEYS
    assert isinstance(other.pop("rtt_ms"), float)
    assert other == {
        "id": key_text(seen.mesh.id(1)),
        "name": "n1",
        "state": "alive",
        "incarnation": 1,
        "address": "10.0.0.2:7700",
        "role": "worker",
        "owner": "owner",
        "labels": {"zone": "attic"},
        "tier": 2,
        "hardware": {"cores": 4, "gpus": []},
        "models": ["org/demo"],
        "load": {"queued": 1, "running": 2, "slots": 4},
        "version": "test",
    }
    assert own["rtt_ms"] is None
    assert (own["role"], own["owner"], own["tier"], own["models"]) == ("admin", "founder", 3, [])
    assert own["load"] == {"queued": 0, "running": 0, "slots": 0}


def test_this_node_is_first_then_by_name() -> None:
    """In every list."""
    seen = Seen(5)
    names = [row["name"] for row in seen.view.rows(include_all=False)]
    assert names == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD, State.LEFT])
def test_every_state_has_its_word(state: State) -> None:
    """alive, suspect, dead, left."""
    seen = Seen()
    node, mesh = seen.mesh[0], seen.mesh
    if state is State.SUSPECT:
        node._membership.suspect(mesh.id(1), mesh.now, is_refused=False)
    else:
        node.members.put_gone(mesh.id(1), Gone(state, 1, clock.now_ns(), None))
    assert seen.row(1)["state"] == str(state)
    assert seen.view.counts() == {
        "alive": 2,
        **{str(s): int(s is state) for s in State if s is not State.ALIVE},
    }


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_who_is_gone_leaves_the_default_list(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    """After ten minutes; the long list keeps everybody."""
    seen = Seen()
    seen.mesh[0].members.put_gone(seen.mesh.id(1), Gone(state, 1, 0, None))

    def names(*, include_all: bool = False) -> list[str]:
        return [row["name"] for row in seen.view.rows(include_all=include_all)]

    monkeypatch.setattr(clock, "now_ns", lambda: OLD_NS - 1)
    assert names() == ["n0", "n1", "n2"]
    monkeypatch.setattr(clock, "now_ns", lambda: OLD_NS)
    assert names() == ["n0", "n2"]
    assert names(include_all=True) == ["n0", "n1", "n2"]


def test_a_member_known_only_to_be_gone_has_a_row() -> None:
    """Its goodbye came, its life never did: no address, no version, the id for a name."""
    seen = Seen()
    members = seen.mesh[0].members
    members.remove(seen.mesh.id(1))
    members.put_gone(seen.mesh.id(1), Gone(State.LEFT, 3, clock.now_ns(), None))
    row = seen.row(1)
    assert row["name"] == row["id"][:8]
    assert (row["state"], row["version"], row["incarnation"]) == ("left", None, 3)


# ---- what others offer ----

HOSTILE: tuple[object, ...] = (
    b"bytes",
    [1, 2],
    "text",
    7,
    None,
    {"a": b"\x00\xff"},
    {"a": math.nan},
    {"a": math.inf},
    {"a": "\x1b]0;owned\x07"},
    {"\x1b[2J": "x"},
    {"a": "line\nbreak"},
    {"a": {b"k": 1}},
    {"a": msgpack.Timestamp(2**40, 1)},
    {"a": "x" * 600},
    {"tier": 7},
    {"tier": True},
    {"tier": 1.0},
    {"tier": "1"},
    {"tier": [1]},
    {"name": "x" * 600},
    {"name": "\x1b[31mred", "content_hash": "", "runtime": ""},
    {str(number): number for number in range(90)},
)


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_offers_stay_plain(value: object) -> None:
    """Wrong types, terminal escapes, junk: rows remain JSON of the published form, and small."""
    seen = Seen(2)
    for key in ("hardware", "labels", KEY, "unknown"):
        seen.offer(1, key, msgpack.packb(value))
    text = json.dumps(seen.view.rows(include_all=True), allow_nan=False, ensure_ascii=False)
    assert text.isprintable()
    assert len(text) < 5_000
    row = seen.row(1)
    assert list(row) == ROW_KEYS
    assert row["tier"] == 3
    assert type(row["tier"]) is int
    assert row["models"] == []
    assert all(isinstance(label, str) for label in row["labels"].values())
    assert seen.view.models() == []


def test_one_model_is_listed_once_per_node() -> None:
    """Also when a member offers it under many keys: only its own key counts."""
    seen = Seen()
    value = advertisement.encode_model(CARD)
    for key in (KEY, "model/0000000000000000", "model/x", "model/"):
        seen.offer(1, key, value)
    assert seen.row(1)["models"] == ["org/demo"]
    assert [row["nodes"] for row in seen.view.models()] == [["n1"]]
    assert [*seen.view.offering(CARD.name)] == [seen.mesh.id(1)]


def test_models_are_listed_by_name_with_their_nodes() -> None:
    """One row a name, nodes by name; a withdrawn offer is gone."""
    seen = Seen()
    other = ModelCard(name="another", content_hash="cd", runtime="test")
    for index in (2, 1):
        seen.offer(index, KEY, advertisement.encode_model(CARD))
    seen.offer(1, advertisement.model_key("another"), advertisement.encode_model(other))
    rows = seen.view.models()
    assert [row["name"] for row in rows] == ["another", "org/demo"]
    assert rows[1] == {
        "name": "org/demo",
        "hash": "ab" * 32,
        "runtime": "llama",
        "architecture": "llama",
        "parameters": 5,
        "quantization": "F16",
        "size_bytes": 240_000,
        "context_tokens": 2048,
        "tasks": ["generate"],
        "nodes": ["n1", "n2"],
        "loaded": ["n1", "n2"],
        "ready_in_s": 0.0,
    }
    seen.offer(1, KEY, advertisement.encode_model(dataclasses.replace(CARD, load_ms=2_500)))
    row = seen.view.models()[1]
    assert (row["nodes"], row["loaded"], row["ready_in_s"]) == (["n1", "n2"], ["n2"], 0.0)
    seen.offer(2, KEY, advertisement.encode_model(dataclasses.replace(CARD, load_ms=9_000)))
    assert seen.view.models()[1]["ready_in_s"] == 2.5
    seen.offer(1, KEY, b"")
    seen.offer(2, KEY, b"")
    assert [row["name"] for row in seen.view.models()] == ["another"]


def test_who_is_gone_or_may_not_serve_offers_nothing() -> None:
    """Neither rows of models nor candidates name it."""
    seen = Seen(4, roles=(Role.ADMIN, Role.WORKER, Role.CLIENT, Role.WORKER))
    value = advertisement.encode_model(CARD)
    for index in (1, 3):
        seen.offer(index, KEY, value)
    client = seen.mesh.machines[2].crypto
    offer = make_offer(client, seen.mesh.authorities.mesh, 1, KEY, value)
    seen.view.note(OffersChanged(client.node_id, offer))
    assert [row["nodes"] for row in seen.view.models()] == [["n1", "n3"]]
    seen.mesh[0].members.put_gone(seen.mesh.id(1), Gone(State.DEAD, 1, 0, None))
    assert [row["nodes"] for row in seen.view.models()] == [["n3"]]
    assert [*seen.view.offering(CARD.name)] == [seen.mesh.id(3)]
    assert seen.row(2)["models"] == []


def test_who_died_lately_is_named_with_what_it_offered() -> None:
    """Not who is there, and not who said goodbye or died long ago."""
    seen = Seen(5)
    for index in range(1, 5):
        seen.offer(index, KEY, advertisement.encode_model(CARD))
    assert seen.view.lost(CARD.name) == []
    now = clock.now_ns()
    for index, state, since_ns in (
        (1, State.DEAD, now),
        (2, State.LEFT, now),
        (3, State.DEAD, now - OLD_NS),
    ):
        seen.mesh[0].members.put_gone(seen.mesh.id(index), Gone(state, 1, since_ns, None))
    assert seen.view.lost(CARD.name) == ["n1"]
    assert seen.view.lost("another") == []


def test_who_withdrew_lately_is_named_until_it_offers_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that has come back withdraws what it has not yet: the model is away, not unknown."""
    seen = Seen(2)
    now_ns = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)
    seen.offer(1, KEY, advertisement.encode_model(CARD))
    assert not seen.view.withdrawing(CARD.name)
    seen.offer(1, KEY, b"")
    assert seen.view.lost(CARD.name) == ["n1"]
    assert seen.view.withdrawing(CARD.name) == [seen.mesh.id(1)]
    assert not seen.view.withdrawing("another")
    now_ns += WITHDRAWN_NS
    assert (seen.view.lost(CARD.name), seen.view.withdrawing(CARD.name)) == ([], [])
    seen.offer(1, KEY, advertisement.encode_model(CARD))
    seen.offer(1, KEY, b"")
    seen.offer(1, KEY, advertisement.encode_model(CARD))
    assert (seen.view.lost(CARD.name), seen.view.withdrawing(CARD.name)) == ([], [])


def test_what_is_withdrawn_is_kept_within_bounds() -> None:
    """Whoever offers and withdraws ever other models takes no memory with it."""
    seen = Seen(2)
    for number in range(2 * WITHDRAWN_MAX):
        card = dataclasses.replace(CARD, name=f"m{number}")
        for value in (advertisement.encode_model(card), b""):
            seen.offer(1, advertisement.model_key(card.name), value)
    kept = [n for n in range(2 * WITHDRAWN_MAX) if seen.view.lost(f"m{n}")]
    assert kept == [*range(WITHDRAWN_MAX, 2 * WITHDRAWN_MAX)]


def test_candidates_carry_what_ranking_needs() -> None:
    """Doubt, load, our own requests there, round trip, the speed that it tells."""
    seen = Seen()
    speed = Speed(prefill_ns=1_000_000, decode_ns=20_000_000)
    seen.offer(1, KEY, advertisement.encode_model(CARD, speed))
    seen.offer(2, KEY, advertisement.encode_model(CARD))
    one, other = seen.mesh.id(1), seen.mesh.id(2)
    seen.view.note(LoadLearned(one, Load(1, 2, 3)))
    seen.view.note(LoadLearned(other, Load(0, 0, 2**31)))
    seen.mesh[0]._membership.suspect(other, seen.mesh.now, is_refused=False)
    first, second = seen.view.candidates([one, other], CARD.name, {one: 5})
    assert (first.node, first.is_alive, first.own_requests) == (one, True, 5)
    assert first.load == Load(1, 2, 3)
    assert second.load == Load(0, 0, SLOTS_BELIEVED_MAX)
    assert first.round_trip_ns == seen.mesh[0].round_trip_ns(one)
    assert (second.node, second.is_alive, second.own_requests) == (other, False, 0)
    assert (first.speed, second.speed) == (speed, None)
    assert [*seen.view.offering("nothing")] == []


def test_it_is_settled_when_all_who_came_have_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes, or comes back, is waited for until it tells what it has, or long enough."""
    now_ns = 10**12
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)
    seen = Seen()
    for index in range(3):
        assert not seen.view.is_settled()
        seen.offer(index, advertisement.HARDWARE, advertisement.encode_map({"tier": 2}))
    assert not seen.view.is_settled()
    now_ns += SECOND  # rumours may overtake each other
    assert seen.view.is_settled()
    now_ns += TELL_NS
    seen.offer(1, advertisement.HARDWARE, advertisement.encode_map({"tier": 3}))
    assert seen.view.is_settled()  # who tells again keeps nobody waiting
    back = dataclasses.replace(_changed(seen.mesh, 1, State.ALIVE), previous=State.LEFT)
    seen.view.note(back)
    assert not seen.view.is_settled()
    seen.view.note(_changed(seen.mesh, 1, State.DEAD))
    assert seen.view.is_settled()
    seen.view.note(back)
    seen.view.note(dataclasses.replace(back, previous=State.SUSPECT))  # tells nothing new
    assert not seen.view.is_settled()
    hardware = advertisement.encode_map({"tier": 1})
    seen.offer(1, advertisement.HARDWARE, hardware)
    assert not seen.view.is_settled()
    now_ns += SECOND
    assert seen.view.is_settled()
    seen.view.note(back)
    now_ns += TELL_NS - 1
    assert not seen.view.is_settled()
    now_ns += 1
    assert seen.view.is_settled()


def test_who_has_found_nobody_again_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while: others were there once. A mesh of one never waits."""
    now_ns = 10**12
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns)
    seen = Seen()
    for index in range(3):
        seen.offer(index, advertisement.HARDWARE, advertisement.encode_map({"tier": 2}))
    now_ns += SECOND
    assert seen.view.is_settled()
    for index in (1, 2):
        seen.mesh[0].members.put_gone(seen.mesh.id(index), Gone(State.LEFT, 1, 0, None))
    assert not seen.view.is_settled()
    now_ns += TELL_NS
    assert seen.view.is_settled()
    alone = Seen(1)
    alone.offer(0, advertisement.HARDWARE, advertisement.encode_map({"tier": 2}))
    now_ns += SECOND
    assert alone.view.is_settled()


# ---- names and watching ----


def test_members_are_found_by_name_id_and_its_beginning() -> None:
    """Eight characters of an id at least; a name may mean several."""
    seen = Seen()
    node = seen.mesh.id(1)
    text = key_text(node)
    for words in ("n1", text, text[:8], text[:30]):
        assert seen.view.find(words) == [node]
    for words in ("", "n", "n9", text[:7], text.upper()):
        assert seen.view.find(words) == []
    seen.mesh[0].members.put_gone(node, Gone(State.DEAD, 1, 0, None))
    assert seen.view.find("n1") == []


def test_watchers_hear_of_the_end_at_once() -> None:
    """Of their node's death or goodbye, not of doubt and not of others; only while inside."""
    seen = Seen()
    view, mesh = seen.view, seen.mesh
    told: list[str] = []
    with view.when_gone(mesh.id(1), lambda: told.append("outer")):
        with view.when_gone(mesh.id(1), lambda: told.append("inner")):
            view.note(_changed(mesh, 1, State.SUSPECT))
            view.note(_changed(mesh, 2, State.DEAD))
            assert told == []
            view.note(_changed(mesh, 1, State.DEAD))
            assert told == ["outer", "inner"]
        view.note(_changed(mesh, 1, State.LEFT))
        assert told == ["outer", "inner", "outer"]
    view.note(_changed(mesh, 1, State.DEAD))
    assert len(told) == 3
    assert not view._watchers


def test_watching_one_who_is_gone_tells_at_once() -> None:
    """Nobody waits for news that have been."""
    seen = Seen()
    seen.mesh[0].members.put_gone(seen.mesh.id(1), Gone(State.LEFT, 1, 0, None))
    told: list[bool] = []
    with seen.view.when_gone(seen.mesh.id(1), lambda: told.append(True)):
        assert told == [True]


def test_a_watcher_that_goes_while_it_is_told_does_not_disturb_the_others() -> None:
    """Cancelling one request must not keep the next from hearing."""
    seen = Seen()
    view, mesh = seen.view, seen.mesh
    told: list[int] = []

    def leaving(number: int) -> Callable[[], None]:
        def tell() -> None:
            told.append(number)
            watches[number].__exit__(None, None, None)

        return tell

    watches = [view.when_gone(mesh.id(1), leaving(number)) for number in range(3)]
    for watch in watches:
        watch.__enter__()
    view.note(_changed(mesh, 1, State.DEAD))
    assert told == [0, 1, 2]


def test_a_death_forgets_the_load() -> None:
    """A member that comes back is not believed busy."""
    seen = Seen()
    seen.view.note(LoadLearned(seen.mesh.id(1), Load(9, 9, 9)))
    seen.view.note(_changed(seen.mesh, 1, State.DEAD))
    assert seen.view.load(seen.mesh.id(1)) is None


def test_what_happens_goes_into_the_log() -> None:
    """In the published form, {"time", "type", "node", ...}, with the names that are known here."""
    seen = Seen()
    seen.offer(1, "service/x", b"y")
    seen.mesh.give(1, LeaveRequested())
    seen.mesh.settle()
    seen.catch_up()
    offer, left = (dict(event) for event in seen.view.events.recent(2))
    assert left.pop("time").endswith("+00:00")
    assert left.pop("id") == offer["id"] + 1
    about = {"node": key_text(seen.mesh.id(1)), "name": "n1"}
    assert left == {"type": "left", **about, "incarnation": 1, "previous": "alive"}
    assert offer.items() >= {"type": "offer", **about, "key": "service/x", "removed": False}.items()


@pytest.mark.parametrize(
    ("role", "allowed"),
    [(Role.ADMIN, True), (Role.WORKER, True), (Role.CLIENT, True), (Role.OBSERVER, False)],
)
def test_observers_may_not_ask(role: Role, allowed: bool) -> None:
    """Everybody else may."""
    mesh = Mesh(2, roles=(Role.ADMIN, role)).start_all()
    assert View(mesh[1]).may_ask() is allowed


def test_the_owners_nodes_are_known_by_their_invites() -> None:
    """Oneself always; of others those whose invite names the same owner; no strangers."""
    mesh = Mesh(3).start_all()
    mesh.settle()
    founders, owners = View(mesh[0]), View(mesh[1])
    assert [founders.is_owners(mesh.id(index)) for index in range(3)] == [True, False, False]
    assert [owners.is_owners(mesh.id(index)) for index in range(3)] == [False, True, True]
    assert not owners.is_owners(NodeId(bytes(32)))
