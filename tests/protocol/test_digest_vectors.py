"""What a view knows, in sums (`protocol/README.md`, section 8): `digests.json`.

A view with the records takes in `statements`, in order; then the time of its one suspicion passes,
and it takes in `after_the_death`. `members` is how it then sees everybody, with what each one
counts; `record_ids` are its records in the order of `records`; then the sums of the 64 buckets of
members and of records, and the total. Numbers of 64 bits are 16 hex digits, big-endian.
"""

import hashlib
import json
import pathlib
from typing import Any, Final

from protocol.codec import BUCKETS
from protocol.identity import short_id
from protocol.node import Node
from protocol.statements import (
    Alive,
    Offer,
    decode_statement,
    make_accusation,
    make_alive,
    make_left,
    make_offer,
)
from tests.helpers.nodes import Mesh, address_of, seed_of
from tests.protocol.test_merge_vectors import LATER_NS, START_NS, let_time_pass, view_of

Json = Any
VECTORS = pathlib.Path(__file__).parents[1] / "vectors" / "digests.json"
_OFFERING, _LEAVING, _DYING, _SUSPECTED, _UNSEEN = range(1, 6)
_MODULUS: Final = 2**64


def _statements(mesh: Mesh) -> tuple[list[bytes], list[bytes]]:
    """Lives, also superseded ones, offers with a removal, goodbyes and accusations."""
    mesh_id = mesh.authorities.mesh
    crypto = [machine.crypto for machine in mesh.machines]

    def alive(index: int, incarnation: int) -> bytes:
        where = (address_of(index),)
        return make_alive(crypto[index], mesh_id, incarnation, f"n{index}", where, "test").wire

    def accusation(index: int) -> bytes:
        subject = crypto[index].node_id
        return make_accusation(crypto[_OFFERING], mesh_id, subject, 1, is_dead=False).wire

    return [
        alive(_OFFERING, 1),
        alive(_OFFERING, 2),
        make_offer(crypto[_OFFERING], mesh_id, 1, "model/x", b"\x01").wire,
        make_offer(crypto[_OFFERING], mesh_id, 2, "model/y", b"\x02").wire,
        make_offer(crypto[_OFFERING], mesh_id, 3, "model/x", b"").wire,
        alive(_LEAVING, 7),
        make_offer(crypto[_LEAVING], mesh_id, 1, "model/z", b"\x03").wire,
        make_left(crypto[_LEAVING], mesh_id, 7).wire,
        alive(_DYING, 1),
        accusation(_DYING),
        alive(_SUSPECTED, 1),
        make_left(crypto[_UNSEEN], mesh_id, 4).wire,
    ], [accusation(_SUSPECTED)]


def _view(vectors: Json) -> Node:
    node = view_of(vectors)
    for wire in vectors["statements"]:
        node._intake.take(bytes.fromhex(wire), START_NS)
    let_time_pass(node, START_NS)
    for wire in vectors["after_the_death"]:
        node._intake.take(bytes.fromhex(wire), START_NS + LATER_NS)
    return node


def _hex(number: int) -> str:
    return f"{number:016x}"


def _split(sums: bytes) -> list[str]:
    return [sums[at : at + 8].hex() for at in range(0, len(sums), 8)]


def _members(node: Node) -> dict[str, Json]:
    knowledge = node._knowledge
    contents = {entry.node: entry.content for entry in knowledge.entries(2**BUCKETS - 1)[1]}
    return {
        member.hex(): {
            "state": str(node.members.state(member)),
            "incarnation": node.members.incarnation(member),
            "content": _hex(contents[short_id(member)]),
        }
        for member in node.members.all()
    }


def make_digests() -> Json:
    """A view of six members, and all of its sums."""
    mesh = Mesh(6, label="digests")
    statements, after_the_death = _statements(mesh)
    given: dict[str, Json] = {
        "root_key": mesh.authorities.root.hex(),
        "mesh_id": mesh.authorities.mesh.hex(),
        "viewer_seed": seed_of("digests", "node", 0).hex(),
        "records": [wire.hex() for wire in mesh.records],
        "statements": [wire.hex() for wire in statements],
        "after_the_death": [wire.hex() for wire in after_the_death],
    }
    node = _view(given)
    knowledge = node._knowledge
    members, records = knowledge.sums()
    return {
        **given,
        "members": _members(node),
        "record_ids": [knowledge._name(wire).hex() for wire in mesh.records],
        "member_sums": _split(members),
        "record_sums": _split(records),
        "total": _hex(knowledge.total),
    }


def _load() -> Json:
    return json.loads(VECTORS.read_text("utf-8"))


def _h(vectors: Json, data: bytes) -> int:
    """The specification's h(x), from the file alone."""
    key = bytes.fromhex(vectors["mesh_id"])
    name = hashlib.blake2b(data, digest_size=8, key=key, person=b"meshd digest").digest()
    return int.from_bytes(name, "big")


def _counted(vectors: Json, member: str) -> int:
    """What a member counts by the specification, from the file alone."""
    seen = vectors["members"][member]
    if seen["state"] == "dead":
        return 0
    if seen["state"] == "left":
        node = bytes.fromhex(member)
        return _h(vectors, b"left" + node + seen["incarnation"].to_bytes(8, "big"))
    last: dict[str, bytes] = {}
    for wire in map(bytes.fromhex, vectors["statements"]):
        statement = decode_statement(wire)
        if statement.author.hex() == member and isinstance(statement, (Alive, Offer)):
            last[str(getattr(statement, "key", "life"))] = wire
    return sum(_h(vectors, wire) for wire in last.values()) % _MODULUS


def test_the_sums_follow_from_the_specification() -> None:
    """Counted once more from the file, without the code that made it."""
    vectors = _load()
    member_sums, record_sums = [0] * BUCKETS, [0] * BUCKETS
    for member, seen in vectors["members"].items():
        content = _counted(vectors, member)
        assert seen["content"] == _hex(content)
        bucket = bytes.fromhex(member)[0] >> 2
        member_sums[bucket] = (member_sums[bucket] + content) % _MODULUS
    for wire, name in zip(vectors["records"], vectors["record_ids"], strict=True):
        assert name == _hex(_h(vectors, bytes.fromhex(wire)))
        bucket = bytes.fromhex(name)[0] >> 2
        record_sums[bucket] = (record_sums[bucket] + int(name, 16)) % _MODULUS
    assert vectors["member_sums"] == [*map(_hex, member_sums)]
    assert vectors["record_sums"] == [*map(_hex, record_sums)]
    assert vectors["total"] == _hex((sum(member_sums) + sum(record_sums)) % _MODULUS)


def test_every_state_is_in_it() -> None:
    """Present, suspect, dead, and left, also of a member whose life was never seen."""
    states = [member["state"] for member in _load()["members"].values()]
    assert sorted(states) == ["alive", "dead", "left", "left", "suspect"]
