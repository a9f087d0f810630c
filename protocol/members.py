"""The one place for the table of members and for THE rule of what supersedes what.

A view maps a node id to the member's last signed `Alive`: an immutable record shared by all views
in a process. What differs per view is sparse: `suspicions` and `gone`.

Precedence (SWIM section 4.2, with the departures of DESIGN: only the subject states its life):

    new \\ known   alive j     suspect j   dead j      left j
    alive i       i > j       i > j       i > j       i > j
    suspect i     i = j       (confirms)  never       never
    dead i        i = j       i = j       never       never      (our own verdict)
    left i        i >= j      i >= j      i >= j      i > j

An accusation needs the incarnation whose signed Alive we hold, hence i = j and never i > j.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

from protocol.identity import NodeId
from protocol.statements import Alive, Left
from protocol.suspicion import Suspicion


class State(enum.StrEnum):
    """The four states of a member in one view."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


def supersedes(new: State, incarnation: int, known: State, known_incarnation: int) -> bool:
    """Whether a statement or verdict about a member replaces what is known of it."""
    match new:
        case State.ALIVE:
            return incarnation > known_incarnation
        case State.SUSPECT:
            return known is State.ALIVE and incarnation == known_incarnation
        case State.DEAD:
            return known in (State.ALIVE, State.SUSPECT) and incarnation == known_incarnation
        case _:  # a goodbye
            if known is State.LEFT:
                return incarnation > known_incarnation
            return incarnation >= known_incarnation


@dataclasses.dataclass(frozen=True, slots=True)
class Gone:
    """A member that is not there: what stays in memory so that no rumour revives it."""

    state: State
    """DEAD or LEFT."""
    incarnation: int
    since_ns: int
    left: Left | None
    """The signed goodbye; None for a death, which is our own verdict."""


class Members:
    """One node's view: who the members are and how each one is."""

    def __init__(self) -> None:
        self._alive: dict[NodeId, Alive] = {}
        self._is_shared = False
        """Whether another view holds the same table: then it is copied before it changes."""
        self.suspicions: dict[NodeId, Suspicion] = {}
        self._gone: dict[NodeId, Gone] = {}
        self._present: list[NodeId] | None = None
        self._present_table: dict[NodeId, None] | None = None
        self.revision = 0
        """Rises with every change of who is present, or of what versions somebody speaks."""
        self.acquaintances: dict[NodeId, Alive] = {}
        """Alive when an earlier run of this node ended, not heard of in this one: not in the view,
        but worth looking for."""

    def __len__(self) -> int:
        return len(self._alive)

    def __contains__(self, node: object) -> bool:
        return node in self._alive or node in self._gone

    @property
    def present_count(self) -> int:
        """Members alive or suspect: the N of every formula."""
        return len(self.present())

    def alive_record(self, node: NodeId) -> Alive | None:
        """The last signed Alive of a member, also of one that is gone."""
        return self._alive.get(node)

    def last_known(self, node: NodeId) -> Alive | None:
        """As `alive_record`, or what an earlier run remembered."""
        return self._alive.get(node) or self.acquaintances.get(node)

    def gone(self, node: NodeId) -> Gone | None:
        """How and when a member went."""
        return self._gone.get(node)

    def state(self, node: NodeId) -> State | None:
        """The member's state in this view; None for nobody we know."""
        gone = self._gone.get(node)
        if gone is not None:
            return gone.state
        if node in self.suspicions:
            return State.SUSPECT
        return State.ALIVE if node in self._alive else None

    def incarnation(self, node: NodeId) -> int:
        """The highest incarnation known of a member; 0 for nobody."""
        alive = self._alive.get(node)
        gone = self._gone.get(node)
        return max(alive.incarnation if alive else 0, gone.incarnation if gone else 0)

    def is_present(self, node: NodeId) -> bool:
        """Whether the member is alive or suspect."""
        return node in self._alive and node not in self._gone

    def present(self) -> Sequence[NodeId]:
        """All alive and suspect members, in order of acquaintance; never changed afterwards."""
        if self._present is None:
            self._present = [node for node in self._alive if node not in self._gone]
        return self._present

    def present_table(self) -> Mapping[NodeId, None]:
        """The same as keys; never changed afterwards."""
        if self._present_table is None:
            self._present_table = dict.fromkeys(self.present())
        return self._present_table

    def missing(self) -> list[NodeId]:
        """All dead and left members, in order of their going, and the acquaintances."""
        return [*self._gone, *self.acquaintances]

    def all(self) -> list[NodeId]:
        """Everybody with a signed Alive, and those only known to be gone."""
        return [*self._alive, *(node for node in self._gone if node not in self._alive)]

    def put_alive(self, alive: Alive) -> None:
        """A superseding Alive: the member is present."""
        known = self._alive.get(alive.author)
        if known is None or known.versions != alive.versions or alive.author in self._gone:
            self._note_change()
        self._own_alive()[alive.author] = alive
        self._gone.pop(alive.author, None)
        self.suspicions.pop(alive.author, None)
        self.acquaintances.pop(alive.author, None)

    def share(self, other: "Members") -> None:
        """See whom another sees, all of them alive: a simulation that begins in the middle."""
        self._alive, self._is_shared = other._alive, True
        other._is_shared = True
        other.present_table()
        self._present, self._present_table = other._present, other._present_table
        self.revision += 1

    def _own_alive(self) -> dict[NodeId, Alive]:
        """To be written to."""
        if self._is_shared:
            self._alive, self._is_shared = dict(self._alive), False
        return self._alive

    def _note_change(self) -> None:
        self._present = self._present_table = None
        self.revision += 1

    def put_past(self, alive: Alive) -> None:
        """An Alive of a member that is gone: only its addresses and name are of use."""
        self._note_change()
        self._own_alive()[alive.author] = alive

    def put_gone(self, node: NodeId, gone: Gone) -> None:
        """A superseding death or goodbye."""
        self._note_change()
        self._gone.pop(node, None)
        self._gone[node] = gone
        self.suspicions.pop(node, None)
        self.acquaintances.pop(node, None)

    def remove(self, node: NodeId) -> None:
        """Forget a member whose admission no longer counts."""
        self._note_change()
        self._own_alive().pop(node, None)
        self._gone.pop(node, None)
        self.suspicions.pop(node, None)
        self.acquaintances.pop(node, None)
