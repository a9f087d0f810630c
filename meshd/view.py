"""The one place to read what this node believes: members, offers, load.

A read model over the node and its effects. It decides nothing.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from meshd import advertisement, clock
from meshd.event_log import EventLog
from meshd.offered import TELL_NS, Offered
from protocol.effects import Effect, Evicted, LoadLearned, MembershipChanged, OffersChanged
from protocol.identity import NodeId, key_text
from protocol.members import State
from protocol.messages import Load
from protocol.node import Node
from protocol.records import Admission, Role
from protocol.routing import Candidate, believed
from runtimes.base import ModelCard
from runtimes.embedding import TASKS

LOAD_MS_MAX: Final = 3_600_000
"""Of what a member says how long it loads a model."""
OLD_NS: Final = 600 * 10**9
"""Dead and left members leave the default list after ten minutes."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeardLoad:
    """A member's load and when it told."""

    load: Load
    at_ns: int


class View:
    """Answers questions about the mesh as this node sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loads: dict[NodeId, HeardLoad] = {}
        self._offered = Offered()
        self._watchers: dict[NodeId, list[Callable[[], None]]] = {}
        self._began_ns = clock.now_ns()
        self.own_load = Load(0, 0, 0)
        self.events = EventLog(node.node_id, self.name)

    def note(self, effect: Effect) -> None:
        """Take in what the node reports."""
        match effect:
            case LoadLearned():
                self.hear_load(effect.node, effect.load)
            case OffersChanged():
                self._offered.note(effect)
            case MembershipChanged():
                self._offered.note_member(effect)
                if effect.state in (State.DEAD, State.LEFT):
                    self._loads.pop(effect.node, None)
                    self._tell_gone(effect.node)
            case Evicted():
                self._offered.forget(effect.node)
                self._loads.pop(effect.node, None)
                self._tell_gone(effect.node)
        self.events.note(effect)

    def hear_load(self, node: NodeId, load: Load) -> None:
        """A member has told how busy it is, by gossip or in a refusal."""
        self._loads[node] = HeardLoad(load, clock.now_ns())

    def _tell_gone(self, node: NodeId) -> None:
        for tell in list(self._watchers.get(node, ())):
            tell()

    @contextlib.contextmanager
    def when_gone(self, node: NodeId, tell: Callable[[], None]) -> Iterator[None]:
        """Inside this, `tell()` is called as soon as `node` is dead or left; at once if it is."""
        if not self._node.members.is_present(node):
            tell()
        watchers = self._watchers.setdefault(node, [])
        watchers.append(tell)
        try:
            yield
        finally:
            watchers.remove(tell)
            if not watchers:
                self._watchers.pop(node, None)

    # ---- who ----

    @property
    def own(self) -> NodeId:
        """This node."""
        return self._node.node_id

    def has_left(self, node: NodeId) -> bool:
        """Whether a member said goodbye."""
        return self._node.members.state(node) is State.LEFT

    def is_alive(self, node: NodeId) -> bool:
        """Whether a member is there, and not under suspicion."""
        return self._node.members.state(node) is State.ALIVE

    def name(self, node: NodeId) -> str:
        """A member's name, or the beginning of its id while it has told none."""
        alive = self._node.members.last_known(node)
        return alive.name if alive is not None else key_text(node)[:8]

    def find(self, text: str) -> list[NodeId]:
        """Present members that this name, id, or beginning of an id (8 or more) means."""
        return [
            node
            for node in self._node.members.present()
            if self.name(node) == text
            or key_text(node) == text
            or (len(text) >= 8 and key_text(node).startswith(text))
        ]

    def rows(self, *, include_all: bool) -> list[Mapping[str, Any]]:
        """The rows of `/mesh/v1/nodes`, this node first, then by name."""
        now = clock.now_ns()
        members = self._node.members
        chosen: list[NodeId] = []
        for node in members.all():
            gone = members.gone(node)
            if include_all or gone is None or now - gone.since_ns < OLD_NS:
                chosen.append(node)
        own = self._node.node_id
        chosen.sort(key=lambda node: (node != own, self.name(node), node))
        return [self.row(node) for node in chosen]

    def row(self, node: NodeId) -> Mapping[str, Any]:
        """One member as `/mesh/v1/nodes` shows it."""
        members = self._node.members
        alive = members.last_known(node)
        addresses = self._node.address_of(node)
        if node == self._node.node_id and alive is not None:
            addresses = alive.addresses
        offers = self._node.offers.of(node)
        hardware = advertisement.decode_map(offers.get(advertisement.HARDWARE, b""))
        hardware.pop("tier", None)
        role = self._node.authority.role_of(node)
        invite = self._node.authority.invite_of(node)
        round_trip = self._node.round_trip_ns(node)
        load = self.load(node)
        state = members.state(node)
        return {
            "id": key_text(node),
            "name": self.name(node),
            "state": str(state) if state is not None else str(State.DEAD),
            "incarnation": members.incarnation(node),
            "address": str(addresses[0]) if addresses else None,
            "role": role.name.lower() if role is not None else None,
            "owner": invite.owner if invite is not None else None,
            "labels": dict(self.labels(node)),
            "tier": self.tier(node),
            "hardware": hardware,
            "models": sorted(card.name for card in self.cards(node)),
            "load": dataclasses.asdict(load) if load else {"queued": 0, "running": 0, "slots": 0},
            "rtt_ms": round(round_trip / 1e6, 3) if round_trip is not None else None,
            "version": alive.software if alive is not None else None,
        }

    @property
    def size(self) -> int:
        """How many members are there, this node among them."""
        return self._node.members.present_count

    @property
    def has_company(self) -> bool:
        """Whether anybody else was ever admitted to this mesh."""
        admitted = [r for r in self._node.authority.records() if isinstance(r, Admission)]
        return len(admitted) > 1

    def counts(self) -> Mapping[str, int]:
        """How many members are in each state."""
        counts = {str(state): 0 for state in State}
        for node in self._node.members.all():
            state = self._node.members.state(node)
            if state is not None:
                counts[str(state)] += 1
        return counts

    # ---- what they offer ----

    def load(self, node: NodeId) -> Load | None:
        """A member's load as it last told."""
        if node == self._node.node_id:
            return self.own_load
        heard = self._loads.get(node)
        return heard.load if heard is not None else None

    def cards(self, node: NodeId) -> list[ModelCard]:
        """The models of a member that is there and may serve."""
        return list(self._offered.of(node).cards.values()) if self._serves(node) else []

    def card(self, node: NodeId, model: str) -> ModelCard | None:
        """What a member that is there offers under a name."""
        found = self._offered.of(node).cards.get(model)
        return found if found is not None and self._serves(node) else None

    def _serves(self, node: NodeId) -> bool:
        role = self._node.authority.role_of(node)
        return role is not None and role.may_serve and self._node.members.is_present(node)

    def models(self) -> list[Mapping[str, Any]]:
        """One row per model name in the mesh, with the names of the nodes that offer it."""
        rows: dict[str, dict[str, Any]] = {}
        for node in sorted(self._node.members.present(), key=lambda node: (self.name(node), node)):
            for card in self.cards(node):
                row = rows.setdefault(card.name, model_row(card, []))
                row["ready_in_s"] = min(row["ready_in_s"], card.load_ms / 1000)
                row["nodes"].append(self.name(node))
                row["tasks"] = [task for task in TASKS if task in (*row["tasks"], *card.tasks)]
                if card.load_ms == 0:
                    row["loaded"].append(self.name(node))
        return [rows[name] for name in sorted(rows)]

    def functions(self, node: NodeId) -> tuple[str, ...]:
        """The functions of a member that is there and may serve."""
        return self._offered.of(node).functions if self._serves(node) else ()

    def all_functions(self) -> list[str]:
        """Every function that some member offers, sorted."""
        present = self._node.members.present()
        return sorted({name for node in present for name in self.functions(node)})

    def is_settled(self) -> bool:
        """Whether what nobody offers now is not offered: all who are there have told what they
        have. Who has just come back, or a mesh that has just been found again, may not have yet.
        """
        present = self._node.members.present()
        if len(present) < 2 and self.has_company:
            return clock.now_ns() - self._began_ns >= TELL_NS
        return all(self._offered.awaited_since_ns(node) is None for node in present)

    def offering(self, model: str) -> dict[NodeId, ModelCard]:
        """Members that offer `model`, each with what it says of it."""
        holding = self._offered.holding(model).items()
        return {node: card for node, card in holding if self._serves(node)}

    def withdrawing(self, model: str) -> list[NodeId]:
        """Members that are there and have withdrawn `model`, not long ago: who has come back may
        offer it again.
        """
        return [node for node in self._offered.withdrawing(model) if self._serves(node)]

    def lost(self, model: str) -> list[str]:
        """Names of members that offered `model` until they died, or withdrew it, not long ago."""
        now = clock.now_ns()
        gone = {node: self._node.members.gone(node) for node in self._offered.holding(model)}
        dead = [
            node
            for node, since in gone.items()
            if since is not None
            and self._node.members.state(node) is State.DEAD
            and now - since.since_ns < OLD_NS
        ]
        return [self.name(node) for node in (*dead, *self._offered.withdrawing(model))]

    def candidates(
        self, nodes: Iterable[NodeId], model: str, own_requests: Mapping[NodeId, int]
    ) -> list[Candidate]:
        """Some of those, for ranking."""
        return [self._candidate(node, own_requests, model) for node in nodes]

    def function_candidates(
        self, function: str, own_requests: Mapping[NodeId, int]
    ) -> list[Candidate]:
        """Members that offer `function`, for ranking."""
        present = self._node.members.present()
        nodes = [node for node in present if function in self.functions(node)]
        return [self._candidate(node, own_requests) for node in nodes]

    def _candidate(
        self,
        node: NodeId,
        own_requests: Mapping[NodeId, int],
        model: str | None = None,
    ) -> Candidate:
        offer = self._offered.of(node)
        card = None if model is None else offer.cards.get(model)
        heard = self._loads.get(node)
        is_own = node == self._node.node_id
        return Candidate(
            node=node,
            is_alive=self.is_alive(node),
            load=believed(self.load(node)),
            load_age_ns=clock.now_ns() - heard.at_ns if heard is not None else 0,
            tier=offer.tier,
            own_requests=own_requests.get(node, 0),
            round_trip_ns=0 if is_own else self._node.round_trip_ns(node),
            is_trusted=self.is_trusted(node),
            speed=None if card is None else offer.speeds.get(card.name),
            load_ns=0 if card is None else min(card.load_ms, LOAD_MS_MAX) * 1_000_000,
        )

    def held(self, nodes: Iterable[NodeId], model: str) -> Iterator[tuple[NodeId, frozenset[int]]]:
        """Of those who tell what lies in their model: hashes of prompts' beginnings."""
        key = advertisement.held_key(model)
        for node in nodes:
            if hashes := self._offered.of(node).held.get(key):
                yield node, hashes

    def tier(self, node: NodeId) -> int:
        """1 to 3, by its hardware."""
        return self._offered.of(node).tier

    def labels(self, node: NodeId) -> Mapping[str, str]:
        """What its owner says of it."""
        return self._offered.of(node).labels

    def is_trusted(self, node: NodeId) -> bool:
        """Whether the invite by which a member came was marked so."""
        invite = self._node.authority.invite_of(node)
        return invite is not None and invite.is_trusted

    def is_owners(self, node: NodeId) -> bool:
        """Whether a member is of the owner of this node."""
        ours, theirs = map(self._node.authority.invite_of, (self._node.node_id, node))
        return ours is not None and theirs is not None and ours.owner == theirs.owner

    def may_ask(self) -> bool:
        """Whether this node's role lets it send requests."""
        role = self._node.authority.role_of(self._node.node_id)
        return role is not None and role is not Role.OBSERVER

    def may_serve(self) -> bool:
        """Whether this node's role lets it run others' requests."""
        role = self._node.authority.role_of(self._node.node_id)
        return role is not None and role.may_serve


def model_row(card: ModelCard, nodes: list[str]) -> dict[str, Any]:
    """A model as `/mesh/v1/models` shows it."""
    return {
        "name": card.name,
        "hash": card.content_hash,
        "runtime": card.runtime,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "quantization": card.quantization,
        "size_bytes": card.size_bytes,
        "context_tokens": card.context_tokens,
        "tasks": list(card.tasks),
        "nodes": nodes,
        "loaded": [],
        "ready_in_s": card.load_ms / 1000,
    }
