"""The one place for what must hold in every run, whatever happens to it: one small class each.

Safety is looked for in what was written down during the run; liveness, once all faults have ended,
is in `liveness.py`.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from protocol.codec import STREAM_BYTES_MAX
from protocol.config import SECOND, ProtocolConfig
from protocol.envelope import DATAGRAM_BYTES_MAX
from protocol.identity import NodeId
from protocol.members import State
from protocol.suspicion import timeout_bounds
from simulations.bounds import crash_ns
from simulations.director import Episode
from simulations.history import last_start, next_start
from simulations.world import World

QUIET_LOSS_PPM: Final = 10_000
"""Up to so much loss is no excuse: 1 %."""
_HARMLESS: Final = ("flood", "replay", "spoof", "clock", "start")
"""Acts that excuse nothing at those whom they touch. (A liar is muted by whom it lied to, so it may
end up dead there; others' lies are no excuse for anybody else, as long as they are few.)"""
_LIES: Final = ("lie", "forge")
_UNSOUND: Final = (
    "pause",
    "starve",
    "cut",
    "block",
    "sever",
    "loss",
    "unplug",
    "flap",
    "slow_read",
)
"""Acts under which a member passes on late, or not at all, what others need to hear."""
_ENDS: Final = ("crash", "leave", "restart", "move")
"""Acts that trouble nobody but those whom they touch."""
_TROUBLES_NOBODY: Final = (*_HARMLESS, *_ENDS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run, and what was done in it."""

    world: World
    protocol: ProtocolConfig
    episodes: Sequence[Episode]
    is_lossy: bool
    """Whether the network loses more than `QUIET_LOSS_PPM` of everything."""

    @property
    def nodes(self) -> int:
        """How many hosts there are."""
        return len(self.world.hosts)

    def is_troubled(self, host: int, since_ns: int, until_ns: int) -> bool:
        """Whether anything was done to a host between, that others may see as its absence."""
        return any(
            episode.do not in _HARMLESS and episode.touches(host, since_ns, until_ns)
            for episode in self.episodes
        )

    def number(self, node: NodeId) -> int:
        """The host of a node."""
        return self.world.host_of(node).index

    def is_anybody_troubled(self, since_ns: int, until_ns: int) -> bool:
        """Whether somebody was cut off, stopped or slowed between; ends trouble nobody else."""
        return any(
            episode.do not in _TROUBLES_NOBODY
            and episode.begin_ns <= until_ns
            and (episode.end_ns is None or episode.end_ns >= since_ns)
            for episode in self.episodes
        )

    def is_outlied(self, since_ns: int, until_ns: int) -> bool:
        """Whether a quarter of all members lied between; or an eighth, while a quarter lied or was
        not to be relied on; or anybody where each tells one other at a time. Many who accuse make a
        suspicion as short as it may be, and their lies, and who is slow or cut off, are in the way
        of the refutation.
        """
        liars = self._touched(_LIES, since_ns, until_ns)
        unsound = liars | self._touched(_UNSOUND, since_ns, until_ns)
        is_many = len(liars) > 1 and 8 * len(liars) >= self.nodes and 4 * len(unsound) >= self.nodes
        return is_many or (self.protocol.gossip_nodes == 1 and bool(liars))

    def _touched(self, acts: Sequence[str], since_ns: int, until_ns: int) -> set[int]:
        return {
            host
            for episode in self.episodes
            for host in episode.nodes
            if episode.do in acts and episode.touches(host, since_ns, until_ns)
        }

    @property
    def memory_ns(self) -> int:
        """So long the past is an excuse: the longest suspicion may have begun then."""
        return 2 * timeout_bounds(self.protocol, self.nodes)[1] + 10 * SECOND


class Checker(abc.ABC):
    """One property."""

    name: str

    @abc.abstractmethod
    def violations(self, story: Story) -> Iterator[str]:
        """Where it does not hold, a line each."""


def _at(time_ns: int) -> str:
    return f"at {time_ns / SECOND:.3f} s"


class NoFalseDeath(Checker):
    """Nobody calls dead who runs and is reached, unless something was done to one of the two."""

    name = "no_false_death"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        if story.is_lossy:
            return
        for at_ns, observer, subject in story.world.mistakes:
            since_ns = at_ns - story.memory_ns
            if story.is_outlied(since_ns, at_ns):
                continue
            if not any(story.is_troubled(host, since_ns, at_ns) for host in (observer, subject)):
                yield f"node {observer} called {subject} dead {_at(at_ns)}, which ran"


class CrashSeen(Checker):
    """Every crash is seen by everybody who runs on, within the bound of `bounds.crash_ns`."""

    name = "crash_seen"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        world = story.world
        for row, (at_ns, subject, act) in enumerate(world.history):
            if act != "crash":
                continue
            back_ns = next_start(world.history, row)
            end_ns = world.now if back_ns is None else back_ns
            quick_ns = at_ns + crash_ns(story.protocol, story.nodes, is_troubled=False)
            is_troubled = story.is_lossy or story.is_anybody_troubled(at_ns, quick_ns)
            limit_ns = at_ns + crash_ns(story.protocol, story.nodes, is_troubled=is_troubled)
            if end_ns < limit_ns:
                continue
            known = {
                observer
                for seen_ns, observer, change in world.changes
                if story.number(change.node) == subject
                and change.state in (State.DEAD, State.LEFT)
                and seen_ns <= limit_ns
            }
            for host in world.running():
                if last_start(world.history, host.index) >= at_ns or host.index in known:
                    continue
                if not story.is_troubled(host.index, at_ns - story.memory_ns, limit_ns):
                    yield f"node {host.index} did not see the end of {subject} {_at(at_ns)}"


class NumbersRise(Checker):
    """No observer sees an incarnation fall, and nobody dead or gone lives again under the same."""

    name = "numbers_rise"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        world = story.world
        rows = [row for row in world.history if row[2] == "start"]
        begins = {(at_ns, host) for at_ns, host, _ in rows}
        starts = iter(rows)
        upcoming = next(starts, None)
        highest: dict[int, dict[int, tuple[int, State]]] = {}
        for at_ns, observer, change in world.changes:
            while upcoming is not None and upcoming[0] <= at_ns:
                highest[upcoming[1]] = {}
                upcoming = next(starts, None)
            if (at_ns, observer) in begins:
                highest[observer] = {}  # of which life it is in that instant, nobody can tell
                continue
            seen, subject = highest.setdefault(observer, {}), story.number(change.node)
            known, state = seen.get(subject, (0, change.state))
            if change.incarnation < known:
                yield f"node {observer} saw {subject} fall to a lower incarnation {_at(at_ns)}"
            is_here = change.state in (State.ALIVE, State.SUSPECT)
            is_back = is_here and state in (State.DEAD, State.LEFT)
            if is_back and change.incarnation <= known:
                yield f"node {observer} saw the ghost of {subject} {_at(at_ns)}"
            seen[subject] = change.incarnation, change.state


class NoGhost(Checker):
    """Who ended long ago does not come back into anybody's view, unless others were cut off or slow
    since, and so bring what was said before.
    """

    name = "no_ghost"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        world = story.world
        down: dict[int, int] = {}
        history = iter(world.history)
        upcoming = next(history, None)
        for at_ns, observer, change in world.changes:
            while upcoming is not None and upcoming[0] <= at_ns:
                if upcoming[2] == "crash":
                    down[upcoming[1]] = upcoming[0]
                elif upcoming[2] == "start":
                    down.pop(upcoming[1], None)
                upcoming = next(history, None)
            ended_ns = down.get(story.number(change.node))
            is_ghost = change.state is State.ALIVE and change.previous in (State.DEAD, State.LEFT)
            if ended_ns is None or not is_ghost:
                continue
            late_ns = ended_ns + crash_ns(story.protocol, story.nodes, is_troubled=False)
            if at_ns > late_ns and not story.is_anybody_troubled(ended_ns, at_ns):
                yield f"node {observer} took {story.number(change.node)} for alive {_at(at_ns)}"


class LeftIsNotDead(Checker):
    """Who said goodbye is not called dead."""

    name = "left_is_not_dead"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        world = story.world
        if story.is_lossy:
            return
        for row, (at_ns, subject, act) in enumerate(world.history):
            if act != "leave":
                continue
            back_ns = next_start(world.history, row)
            end_ns = world.now + 1 if back_ns is None else back_ns
            for seen_ns, observer, change in world.changes:
                if story.number(change.node) != subject or change.state is not State.DEAD:
                    continue
                if not at_ns <= seen_ns < end_ns:
                    continue
                since_ns = at_ns - story.memory_ns
                others = [e for e in story.episodes if e.do not in _HARMLESS and e.do != "leave"]
                is_excused = any(
                    episode.touches(host, since_ns, seen_ns)
                    for episode in others
                    for host in (observer, subject)
                )
                if not is_excused:
                    yield f"node {observer} called {subject} dead {_at(seen_ns)}, which had left"


class Limits(Checker):
    """Nothing is larger than it may be: datagrams, stream messages, tables."""

    name = "limits"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        world, protocol = story.world, story.protocol
        if world.largest_datagram > DATAGRAM_BYTES_MAX:
            yield f"a datagram of {world.largest_datagram} bytes"
        if world.largest_message > STREAM_BYTES_MAX:
            yield f"a stream message of {world.largest_message} bytes"
        for host in world.running():
            if (node := host.mesh_node) is None:
                continue
            if len(node.members) > protocol.members_max:
                yield f"node {host.index} holds {len(node.members)} members"
            for other in world.hosts:
                held = node.offers.held(other.crypto.node_id)
                size = sum(len(offer.wire) for offer in held)
                if len(held) > protocol.offers_per_node_max:
                    yield f"node {host.index} holds {len(held)} offers of {other.index}"
                if size > 2 * protocol.offer_bytes_per_node_max:
                    yield f"node {host.index} holds {size} bytes of offers of {other.index}"


class NoAmplification(Checker):
    """An address that asked for nothing is never sent more than came in its name."""

    name = "no_amplification"

    def violations(self, story: Story) -> Iterator[str]:
        """See `Checker`."""
        for address, (came, went, excess) in story.world.spoofed.items():
            if went > came:
                yield f"{went} bytes were sent to {address}, in whose name {came} came"
            if excess > 0:
                yield f"an answer to {address} was {excess} bytes longer than its cause"


CHECKERS: Final[tuple[Checker, ...]] = (
    NoFalseDeath(),
    CrashSeen(),
    NumbersRise(),
    NoGhost(),
    LeftIsNotDead(),
    Limits(),
    NoAmplification(),
)
