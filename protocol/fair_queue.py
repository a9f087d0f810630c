"""The one place for whose turn it is among those who wait: deficit round robin in a tree; pure.

    root -> certified node -> API key -> user -> items, first come first served

Each branch divides what it gets among those of its children for whom something waits, by tokens
and evenly: who invents children only divides its own share (M. Shreedhar and G. Varghese,
"Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions on Networking 4(3),
1996). As there, flows stand in a ring, and in every round each may use up one quantum more; what
it did not use is forgotten when nothing of it waits. Different from there, since an item's cost is
only known when it is over:

- A flow has its turn while its deficit is above zero, and is charged afterwards, as tokens flow;
  so it may overdraw, and is passed over until rounds have paid for that (surplus round robin:
  Adiseshu, Parulkar and Varghese, "A Reliable and Scalable Striping Protocol", SIGCOMM 1996).
- What is overdrawn is remembered while nothing waits, and paid by the rounds of others: who asks
  for one long thing after the other has no more than who asks for many at once.
- Rounds in which nobody could have a turn are skipped in one step.

No flow that waits is ever behind another one by more than its own last item and a quantum, at any
level. A step of a path has a rank: of those that wait, only the highest have turns.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

QUANTUM: Final = 64
"""Tokens of a round: small, so that nobody's turn is long. The price of small is nothing here."""
DEBTORS_MAX: Final = 64
"""Flows of one branch whose debts are remembered while nothing of them waits or runs."""

T = TypeVar("T", bound=Hashable)
Step = tuple[int, bytes]
"""(rank, name) of a child."""
Path = tuple[Step, ...]
"""From below the root to a leaf; all paths of a queue have the same length."""


class Flow(Generic[T]):
    """A branch, or a leaf with what waits in it."""

    __slots__ = (
        *("parent", "step", "children", "active", "debtors", "rounds", "deficit", "paid_round"),
        *("items", "waiting", "work", "held"),
    )

    def __init__(self, parent: "Flow[T] | None", step: Step) -> None:
        self.parent = parent
        self.step = step
        self.children: dict[Step, Flow[T]] = {}
        self.active: deque[Flow[T]] = deque()
        """The ring: children for whom something waits, whoever has the turn first."""
        self.debtors: dict[Step, None] = {}
        """Children that only debts are left of, the oldest first."""
        self.rounds = 0
        """That have gone by among the children."""
        self.deficit = 0
        self.paid_round = parent.rounds if parent is not None else 0
        """The parent's round up to which `deficit` has its quanta."""
        self.items: dict[T, int] = {}
        """Of a leaf: what waits, in order, and what each is expected to cost."""
        self.waiting = 0
        """Items that wait, here and below."""
        self.work = 0
        """Tokens that they are expected to cost."""
        self.held = 0
        """Items that wait, or were taken and have not left."""

    def line(self) -> "Iterator[Flow[T]]":
        """Itself and all above it but the root, which competes with nobody."""
        flow = self
        while flow.parent is not None:
            yield flow
            flow = flow.parent

    def settled(self) -> int:
        """The deficit with what rounds have paid meanwhile, as of now."""
        assert self.parent is not None
        passed = self.parent.rounds - self.paid_round
        if passed:
            self.paid_round = self.parent.rounds
            self.deficit = min(0, self.deficit + passed * QUANTUM)
        return self.deficit

    def next_child(self) -> "Flow[T]":
        """Whose turn it is; something waits."""
        top = max(child.step[0] for child in self.active)
        while True:
            for _ in range(len(self.active)):
                child = self.active[0]
                if child.step[0] == top and child.deficit > 0:
                    return child
                self.active.rotate(-1)
            least = min(-child.deficit for child in self.active if child.step[0] == top)
            self._pass_rounds(least // QUANTUM + 1, top)

    def _pass_rounds(self, rounds: int, top: int) -> None:
        self.rounds += rounds
        for child in self.active:
            if child.step[0] == top:
                child.deficit += rounds * QUANTUM
                child.paid_round = self.rounds
            else:
                child.settled()  # it has no turn: debts are paid, credit is not given

    def last_item(self) -> T:
        """Of the lowest rank, the longest queue, its last: what would be served last, roughly."""
        flow = self
        while flow.active:
            flow = max(flow.active, key=lambda child: (-child.step[0], child.waiting))
        return next(reversed(flow.items))


class FairQueue(Generic[T]):
    """Items that wait, each in the flow that its path names."""

    def __init__(self) -> None:
        self._root: Flow[T] = Flow(None, (0, b""))
        self._leaves: dict[T, Flow[T]] = {}
        """Of what waits, or was taken and has not left."""

    def __contains__(self, item: T) -> bool:
        """Whether it waits, or was taken and has not left."""
        return item in self._leaves

    @property
    def waiting(self) -> int:
        """How many items."""
        return self._root.waiting

    @property
    def work(self) -> int:
        """Tokens that they are expected to cost together."""
        return self._root.work

    def items(self) -> Iterator[T]:
        """All that wait, by flows."""
        stack = [self._root]
        while stack:
            flow = stack.pop()
            stack += flow.active
            yield from flow.items

    def last_item(self) -> T:
        """What would be served last, roughly; it must not be empty."""
        return self._root.last_item()

    def add(self, path: Path, item: T, cost: int) -> None:
        """Let an item wait, until it is taken or leaves."""
        flow = self._root
        for step in path:
            flow.debtors.pop(step, None)
            child = flow.children.get(step)
            if child is None:
                child = flow.children[step] = Flow(flow, step)
            flow = child
        leaf = self._leaves[item] = flow
        leaf.items[item] = cost
        for flow in leaf.line():
            flow.held += 1
            if flow.waiting == 0:
                flow.settled()
                assert flow.parent is not None
                flow.parent.active.append(flow)
        self._count(leaf, 1, cost)

    def _count(self, leaf: Flow[T], items: int, cost: int) -> None:
        for flow in (*leaf.line(), self._root):
            flow.waiting += items
            flow.work += cost

    def take(self) -> T:
        """The item whose turn it is; it must not be empty. Its cost is charged by the caller."""
        flow = self._root
        while flow.active:
            flow = flow.next_child()
        item = next(iter(flow.items))
        self._wait_no_more(flow, item)
        return item

    def _wait_no_more(self, leaf: Flow[T], item: T) -> None:
        self._count(leaf, -1, -leaf.items.pop(item))
        for flow in leaf.line():
            if flow.waiting == 0:
                assert flow.parent is not None
                flow.parent.active.remove(flow)
                flow.deficit = min(0, flow.deficit)

    def charge(self, item: T, tokens: int) -> None:
        """An item that was taken has cost so much more; or less, if negative."""
        for flow in self._leaves[item].line():
            if flow.waiting:
                flow.deficit -= tokens
            else:
                flow.deficit = min(0, flow.settled() - tokens)

    def leave(self, item: T) -> None:
        """An item goes, whether it waits or was taken. Of a flow without items only debt stays."""
        leaf = self._leaves.pop(item)
        if item in leaf.items:
            self._wait_no_more(leaf, item)
        for flow in leaf.line():
            flow.held -= 1
            if flow.held == 0:
                self._retire(flow)

    def _retire(self, flow: Flow[T]) -> None:
        branch = flow.parent
        assert branch is not None
        flow.children.clear()
        flow.debtors.clear()
        if flow.settled() >= 0:
            del branch.children[flow.step]
            return
        branch.debtors[flow.step] = None
        if len(branch.debtors) > DEBTORS_MAX:
            oldest = next(iter(branch.debtors))
            del branch.debtors[oldest], branch.children[oldest]

    # ---- looking ahead ----

    def place(self, item: T) -> int:
        """Of an item that waits: how many have had their turn when it has, it included, if all cost
        the same and nobody else comes; debts apart.
        """
        leaf = self._leaves[item]
        place = 1 + list(leaf.items).index(item)
        for flow in leaf.line():
            assert flow.parent is not None
            others = [other for other in flow.parent.active if other is not flow]
            rank = flow.step[0]
            above = sum(other.waiting for other in others if other.step[0] > rank)
            equal = sum(min(other.waiting, place) for other in others if other.step[0] == rank)
            place += above + equal
        return place

    def victim(self, path: Path) -> T | None:
        """Which item should make room for one with this path: the last one of a flow that has at
        least two more waiting than the new one's, at the highest level where there is one; or of a
        lower rank. None: the new one has no better claim than anybody.
        """
        flow = self._root
        for step in path:
            lower = [child for child in flow.active if child.step[0] < step[0]]
            if lower:
                return max(lower, key=lambda c: (-c.step[0], c.waiting)).last_item()
            same = [child for child in flow.active if child.step[0] == step[0]]
            own = flow.children.get(step)
            own_waiting = own.waiting if own is not None else 0
            longest = max(same, key=lambda child: child.waiting, default=None)
            if longest is not None and longest.waiting > own_waiting + 1:
                return longest.last_item()
            if own is None or not own_waiting:
                return None
            flow = own
        return None

    def work_ahead(self, path: Path, cost: int) -> int:
        """Tokens that would be served before a new item with this path, if nobody else came: of
        each other flow as much as this one's own needs, but no more than it has.
        """
        line: list[Flow[T] | None] = [self._root]
        for step in path:
            line.append(line[-1].children.get(step) if line[-1] is not None else None)
        leaf = line[-1]
        ahead = leaf.work if leaf is not None else 0
        for branch, own, (rank, _) in zip(line[-2::-1], line[:0:-1], path[::-1], strict=True):
            if branch is None:
                continue
            share = ahead + cost - (own.settled() if own is not None else 0)
            for other in branch.active:
                if other is own or other.step[0] < rank:
                    continue
                is_above = other.step[0] > rank
                ahead += other.work if is_above else min(other.work, max(0, share + other.deficit))
        return ahead
