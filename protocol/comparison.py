"""The one place that decides, of two that know different things, who knows better about what."""

from typing import Final

from protocol.authority import Authority
from protocol.digest import DEAD, PRESENT, Knowledge, Room
from protocol.identity import NodeId
from protocol.messages import Difference, Entry, PushPull

WANTED_MAX: Final = 4_096
"""Ids asked for in one exchange; the rest comes with the next."""
EXCHANGE_BYTES_MAX: Final = 4 * 2**20
"""Of records and statements in one direction of one exchange; the rest comes with the next."""


def judge(mine: Entry | None, theirs: Entry | None) -> tuple[bool, bool]:
    """(whether to ask for what they know of a member, whether to send what we know).

    The dead of either side are nobody's news to who never knew them. A death is told as an
    accusation to whoever sees the member present, and then what is known of it is asked for: if it
    is the other side itself that we gave up, the answer already refutes. A goodbye is above both.
    """
    if mine is None or theirs is None:
        return (
            theirs is not None and theirs.state != DEAD,
            mine is not None and mine.state != DEAD,
        )
    if mine.state == theirs.state == DEAD:
        return False, False
    if mine.incarnation != theirs.incarnation:
        return theirs.incarnation > mine.incarnation, mine.incarnation > theirs.incarnation
    if mine.state == theirs.state:
        differs = mine.content != theirs.content
        return differs, differs
    is_given_up = mine.state == DEAD and theirs.state == PRESENT
    return theirs.state > mine.state or is_given_up, mine.state > theirs.state


def compare(knowledge: Knowledge, authority: Authority, difference: Difference) -> PushPull:
    """What to send and what to ask for, given what the other side listed."""
    room = Room(EXCHANGE_BYTES_MAX)
    listed = dict.fromkeys(difference.record_ids)
    own_ids = knowledge.record_ids(difference.record_buckets)
    known = dict.fromkeys(own_ids)
    records = knowledge.records_named((n for n in own_ids if n not in listed), room)
    wanted = [name for name in listed if name not in known]
    mine = {e.node: e for e in knowledge.entries(difference.member_buckets)[1]}
    theirs = {entry.node: entry for entry in difference.entries}
    pushed: list[NodeId] = []
    for name in dict.fromkeys((*theirs, *mine)):
        asks, sends = judge(mine.get(name), theirs.get(name))
        if asks:
            wanted.append(name)
        node = authority.resolve(name) if sends else None
        if node is not None:
            pushed.append(node)
    statements = knowledge.about(pushed, room)
    return PushPull(False, records, statements, tuple(wanted[:WANTED_MAX]))


def answer(
    knowledge: Knowledge, authority: Authority, wanted: tuple[bytes, ...] | None
) -> PushPull:
    """The reply to a PushPull: what was asked for, as far as we know it."""
    if wanted is None:
        return PushPull(True, *knowledge.everything())
    room = Room(EXCHANGE_BYTES_MAX)
    names = dict.fromkeys(wanted)
    records = knowledge.records_named(names, room)
    nodes = [authority.resolve(name) for name in names]
    known = [node for node in nodes if node is not None]
    return PushPull(True, records, knowledge.about(known, room))
