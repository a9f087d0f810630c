"""Each cell of the table of lives (`protocol/README.md`, section 9) as wires (`merges.json`).

A case: a view with the records takes in the lives of the `others` (with the subject they are four:
a second accuser counts) and the wires `known`, in order and without a refusal; if `runs_out`, the
time of its suspicion then passes. Then comes the wire `new`; null means that time passes again,
with whatever suspicion there is. `state`, `incarnation`, `accusers` and `life`
(the wire of the Alive that is held) are how the view then sees the subject, `drop` is why `new`
was refused. What is expected here was written by hand from the table, not by running the code.
"""

import dataclasses
import json
import pathlib
import random
from typing import Any

import pytest

from protocol.assembly import NodeConfig
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.deadlines import NEVER
from protocol.errors import Refused
from protocol.identity import SIGNATURE_BYTES, NodeId
from protocol.members import State
from protocol.node import Node
from protocol.records import Role
from protocol.snapshot import Snapshot
from protocol.statements import make_accusation, make_alive, make_left
from tests.helpers.nodes import Mesh, address_of, seed_of

Json = Any
VECTORS = pathlib.Path(__file__).parents[1] / "vectors" / "merges.json"
START_NS = 10 * SECOND
LATER_NS = 3600 * SECOND
"""Longer than any suspicion."""

OTHERS = ["alive_of_b", "alive_of_c", "alive_of_a_client"]
KNOWN: dict[str, tuple[str, ...]] = {
    "unknown": (),
    "alive": ("alive_5",),
    "suspect": ("alive_5", "suspect_5_by_b"),
    "dead": ("alive_5", "suspect_5_by_b"),
    "left": ("alive_5", "left_5"),
    "left_unseen": ("left_5",),
}
"""How each state of incarnation 5 comes about; the dead one's suspicion ran out. "Unseen": its
goodbye came before its life."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How the view sees the subject afterwards."""

    state: str | None
    incarnation: int
    accusers: int = 0
    life: str | None = "alive_5"


UNKNOWN = Outcome(None, 0, life=None)
ALIVE, SUSPECT = Outcome("alive", 5), Outcome("suspect", 5, 1)
DEAD, LEFT = Outcome("dead", 5), Outcome("left", 5)
LEFT_UNSEEN = Outcome("left", 5, life=None)
TWICE = Outcome("suspect", 5, 2)
NEWER = Outcome("alive", 6, life="alive_6")
LATER_GOODBYE = Outcome("left", 6)
BEFORE = {
    "unknown": UNKNOWN,
    "alive": ALIVE,
    "suspect": SUSPECT,
    "dead": DEAD,
    "left": LEFT,
    "left_unseen": LEFT_UNSEEN,
}

CELLS: dict[tuple[str, str | None], tuple[Outcome, str | None]] = {
    # ---- an Alive ----
    ("unknown", "alive_5"): (ALIVE, None),
    ("alive", "alive_4"): (ALIVE, "STALE"),
    ("alive", "alive_5"): (ALIVE, "STALE"),
    ("alive", "alive_6"): (NEWER, None),
    ("suspect", "alive_4"): (SUSPECT, "STALE"),
    ("suspect", "alive_5"): (SUSPECT, "STALE"),
    ("suspect", "alive_6"): (NEWER, None),
    ("dead", "alive_4"): (DEAD, "STALE"),
    ("dead", "alive_5"): (DEAD, "STALE"),
    ("dead", "alive_6"): (NEWER, None),
    ("left", "alive_4"): (LEFT, "STALE"),
    ("left", "alive_5"): (LEFT, "STALE"),
    ("left", "alive_6"): (NEWER, None),
    ("left_unseen", "alive_4"): (LEFT_UNSEEN, "STALE"),
    ("left_unseen", "alive_5"): (LEFT, None),
    ("left_unseen", "alive_6"): (NEWER, None),
    # ---- a suspicion ----
    ("unknown", "suspect_5_by_b"): (UNKNOWN, "UNKNOWN_SUBJECT"),
    ("alive", "suspect_4_by_c"): (ALIVE, "STALE"),
    ("alive", "suspect_5_by_b"): (SUSPECT, None),
    ("alive", "dead_5_by_c"): (SUSPECT, None),
    ("alive", "suspect_6_by_c"): (ALIVE, "UNKNOWN_SUBJECT"),
    ("suspect", "suspect_4_by_c"): (SUSPECT, "STALE"),
    ("suspect", "suspect_5_by_b"): (SUSPECT, None),
    ("suspect", "dead_5_by_b"): (SUSPECT, None),
    ("suspect", "suspect_5_by_c"): (TWICE, None),
    ("suspect", "dead_5_by_c"): (TWICE, None),
    ("suspect", "suspect_6_by_c"): (SUSPECT, "UNKNOWN_SUBJECT"),
    ("dead", "suspect_4_by_c"): (DEAD, "STALE"),
    ("dead", "suspect_5_by_c"): (DEAD, "STALE"),
    ("dead", "suspect_6_by_c"): (DEAD, "UNKNOWN_SUBJECT"),
    ("left", "suspect_4_by_c"): (LEFT, "STALE"),
    ("left", "suspect_5_by_c"): (LEFT, "STALE"),
    ("left", "suspect_6_by_c"): (LEFT, "UNKNOWN_SUBJECT"),
    ("left_unseen", "suspect_5_by_c"): (LEFT_UNSEEN, "UNKNOWN_SUBJECT"),
    # ---- our own verdict, when a suspicion runs out ----
    ("unknown", None): (UNKNOWN, None),
    ("alive", None): (ALIVE, None),
    ("suspect", None): (DEAD, None),
    ("dead", None): (DEAD, None),
    ("left", None): (LEFT, None),
    # ---- a goodbye ----
    ("unknown", "left_5"): (LEFT_UNSEEN, None),
    ("alive", "left_4"): (ALIVE, "STALE"),
    ("alive", "left_5"): (LEFT, None),
    ("alive", "left_6"): (LATER_GOODBYE, None),
    ("suspect", "left_4"): (SUSPECT, "STALE"),
    ("suspect", "left_5"): (LEFT, None),
    ("suspect", "left_6"): (LATER_GOODBYE, None),
    ("dead", "left_4"): (DEAD, "STALE"),
    ("dead", "left_5"): (LEFT, None),
    ("dead", "left_6"): (LATER_GOODBYE, None),
    ("left", "left_4"): (LEFT, "STALE"),
    ("left", "left_5"): (LEFT, "STALE"),
    ("left", "left_6"): (LATER_GOODBYE, None),
    # ---- two Alives under one number, the known one with the lower bytes ----
    ("alive", "alive_5_higher_bytes"): (ALIVE, "EQUIVOCATION"),
    ("suspect", "alive_5_higher_bytes"): (SUSPECT, "EQUIVOCATION"),
    ("dead", "alive_5_higher_bytes"): (DEAD, "EQUIVOCATION"),
    ("left", "alive_5_higher_bytes"): (LEFT, "EQUIVOCATION"),
    # ---- what nobody may say ----
    ("alive", "suspect_5_by_a_client"): (ALIVE, "NOT_ALLOWED"),
    ("alive", "suspect_5_by_a_stranger"): (ALIVE, "NOT_ADMITTED"),
    ("alive", "alive_6_with_a_bad_signature"): (ALIVE, "BAD_SIGNATURE"),
    ("unknown", "left_5_with_a_bad_signature"): (UNKNOWN, "BAD_SIGNATURE"),
}


def _case(name: str, known: tuple[str, ...], new: str | None, after: Outcome, **rest: Json) -> Json:
    return {"name": name, "known": list(known), "new": new, **dataclasses.asdict(after), **rest}


def _table() -> list[Json]:
    return [
        _case(
            f"{new or 'time passes'} when {known}",
            KNOWN[known],
            new,
            after,
            runs_out=known == "dead",
            drop=drop,
        )
        for (known, new), (after, drop) in CELLS.items()
    ]


def _other_order() -> list[Json]:
    """The higher bytes are known first: of a present member they go, of a missing one they stay."""
    higher = "alive_5_higher_bytes"
    missing = {"dead": True, "left": False}
    cases = []
    for known in ("alive", "suspect", *missing):
        wires = tuple(higher if wire == "alive_5" else wire for wire in KNOWN[known])
        kept = higher if known in missing else "alive_5"
        after = dataclasses.replace(BEFORE[known], life=kept)
        name = f"alive_5 when {known}, with higher bytes"
        runs_out = missing.get(known, False)
        cases.append(_case(name, wires, "alive_5", after, runs_out=runs_out, drop="EQUIVOCATION"))
    return cases


def _cases() -> list[Json]:
    refuted = (*KNOWN["suspect"], "alive_6")
    passes = _case("time passes when refuted", refuted, None, NEWER, runs_out=False, drop=None)
    return [*_table(), *_other_order(), passes]


def make_merges() -> Json:
    """Wires by name, and the cases that use them."""
    mesh = Mesh(5, roles=(Role.ADMIN, *[Role.WORKER] * 3, Role.CLIENT), label="merges")
    subject = mesh.id(1)
    return {
        "root_key": mesh.authorities.root.hex(),
        "mesh_id": mesh.authorities.mesh.hex(),
        "viewer_seed": seed_of("merges", "node", 0).hex(),
        "subject": subject.hex(),
        "records": [wire.hex() for wire in mesh.records],
        "others": OTHERS,
        "wires": {name: wire.hex() for name, wire in _wires(mesh).items()},
        "cases": _cases(),
    }


def _wires(mesh: Mesh) -> dict[str, bytes]:
    own, mesh_id = mesh.machines[1].crypto, mesh.authorities.mesh
    where = (address_of(1),)
    fifth = sorted(make_alive(own, mesh_id, 5, name, where, "").wire for name in ("a", "another"))
    wires = {"alive_5": fifth[0], "alive_5_higher_bytes": fifth[1]}
    for number in (4, 6):
        wires[f"alive_{number}"] = make_alive(own, mesh_id, number, "a", where, "").wire
    for number in (4, 5, 6):
        wires[f"left_{number}"] = make_left(own, mesh_id, number).wire
    for index, name in enumerate(OTHERS, start=2):
        other, there = mesh.machines[index].crypto, (address_of(index),)
        wires[name] = make_alive(other, mesh_id, 1, name.replace("_", "-"), there, "").wire
    accusers = {
        "b": mesh.machines[2].crypto,
        "c": mesh.machines[3].crypto,
        "a_client": mesh.machines[4].crypto,
        "a_stranger": SodiumCrypto(seed_of("merges", "stranger")),
    }
    for name, number, is_dead in (
        ("b", 5, False),
        ("b", 5, True),
        ("c", 4, False),
        ("c", 5, False),
        ("c", 5, True),
        ("c", 6, False),
        ("a_client", 5, False),
        ("a_stranger", 5, False),
    ):
        word = make_accusation(accusers[name], mesh_id, own.node_id, number, is_dead=is_dead)
        wires[f"{'dead' if is_dead else 'suspect'}_{number}_by_{name}"] = word.wire
    for name in ("alive_6", "left_5"):
        wire = wires[name]
        flipped = bytes((wire[-SIGNATURE_BYTES] ^ 1,))
        forged = wire[:-SIGNATURE_BYTES] + flipped + wire[1 - SIGNATURE_BYTES :]
        wires[f"{name}_with_a_bad_signature"] = forged
    return wires


def view_of(vectors: Json) -> Node:
    """A view that holds the records of these vectors and knows nobody."""
    root = bytes.fromhex(vectors["root_key"])
    config = NodeConfig(
        name="viewer",
        software="test",
        root=root,
        boot=1,
        boot_secret=bytes(32),
        snapshot=Snapshot(records=tuple(map(bytes.fromhex, vectors["records"]))),
    )
    return Node(config, SodiumCrypto(bytes.fromhex(vectors["viewer_seed"])), random.Random(0))


def let_time_pass(node: Node, start_ns: int) -> None:
    """Until every suspicion of this view has run out; nothing is probed meanwhile."""
    membership = node._membership
    while (due := membership.deadline_ns) != NEVER:
        assert start_ns <= due <= start_ns + LATER_NS
        membership.advance(due)


def _load() -> Json:
    return json.loads(VECTORS.read_text("utf-8"))


@pytest.mark.parametrize("name", [case["name"] for case in _cases()])
def test_case(name: str) -> None:
    """A view with what is known takes in the new wire, or time passes: as written there."""
    vectors = _load()
    (case,) = (case for case in vectors["cases"] if case["name"] == name)
    wires = {key: bytes.fromhex(wire) for key, wire in vectors["wires"].items()}
    subject = NodeId(bytes.fromhex(vectors["subject"]))
    node, now = view_of(vectors), START_NS
    for known in (*vectors["others"], *case["known"]):
        node._intake.take(wires[known], now)
    if case["runs_out"]:
        let_time_pass(node, now)
        assert node.members.state(subject) is State.DEAD
        now += LATER_NS
    drop = None
    if case["new"] is None:
        let_time_pass(node, now)
    else:
        try:
            node._intake.take(wires[case["new"]], now)
        except Refused as refused:
            drop = refused.reason.name
    life = node.members.alive_record(subject)
    suspicion = node.members.suspicions.get(subject)
    assert node.members.state(subject) == case["state"]
    assert node.members.incarnation(subject) == case["incarnation"]
    assert len(suspicion.accusers if suspicion else ()) == case["accusers"]
    assert (life.wire if life else None) == (wires[case["life"]] if case["life"] else None)
    assert drop == case["drop"]


def test_every_cell_is_there() -> None:
    """Four kinds of news over five states, each with a lower, an equal and a higher number."""
    states = ("unknown", "alive", "suspect", "dead", "left")
    for known in states:
        assert (known, None) in CELLS
        numbers = (5,) if known == "unknown" else (4, 5, 6)
        for kind in ("alive", "suspect", "left"):
            for number in numbers:
                assert any(
                    state == known and new is not None and new.startswith(f"{kind}_{number}")
                    for state, new in CELLS
                )


def test_who_made_these_is_the_root_that_they_name() -> None:
    """The mesh of the vectors is that of their root key."""
    vectors = _load()
    assert view_of(vectors).mesh.hex() == vectors["mesh_id"]
    assert public_key_of(seed_of("merges", "root")).hex() == vectors["root_key"]
