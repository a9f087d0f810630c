"""The one place for what members offer, as this node has heard it: read once, looked at often.

It says nothing about who is there or may serve: `view.py` does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from meshd import advertisement, clock
from protocol.effects import MembershipChanged, OffersChanged
from protocol.identity import NodeId
from protocol.members import State
from protocol.routing import LOWEST_TIER
from protocol.speeds import Speed
from runtimes.base import ModelCard

TELL_NS: Final = 10 * 10**9
"""Within this a member that came tells what it offers, or is not waited for ..."""
_LAST_TOLD_NS: Final = 10**9
"""... and this long once it has told what is told last: rumours may overtake each other."""
WITHDRAWN_NS: Final = 60 * 10**9
"""So long a model that was withdrawn is said to be away, and not to be unknown: a node that has
come back withdraws what its earlier life offered, and offers it again once it can run it."""
WITHDRAWN_MAX: Final = 64
"""Of one member; as many as it may offer."""


@dataclasses.dataclass(slots=True)
class Offer:
    """What one member offers."""

    cards: dict[str, ModelCard] = dataclasses.field(default_factory=dict)
    """Its models, by name."""
    speeds: dict[str, Speed] = dataclasses.field(default_factory=dict)
    """Of models, as it tells them."""
    withdrawn: dict[str, int] = dataclasses.field(default_factory=dict)
    """Models that it offers no more, and since when."""
    held: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    """Hashes of what lies in its models, by the offers' keys."""
    functions: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tier: int = LOWEST_TIER
    has_told: bool = False
    """All of it, once at least: the hardware, which everybody tells, is told last."""
    awaited_since_ns: int | None = None
    """Since when it is there without having told all."""


class Offered:
    """What each member offers. Bounded by what the protocol keeps of offers."""

    def __init__(self) -> None:
        self._offers: dict[NodeId, Offer] = {}
        self._began_ns = clock.now_ns()

    def of(self, node: NodeId) -> Offer:
        """What a member offers; nothing, if nothing was heard."""
        return self._offers.get(node) or Offer()

    def holding(self, model: str) -> dict[NodeId, ModelCard]:
        """Who has told that it has a model, be it there or not, and what of it."""
        offers = self._offers.items()
        return {node: offer.cards[model] for node, offer in offers if model in offer.cards}

    def withdrawing(self, model: str) -> list[NodeId]:
        """Who has withdrawn a model, not long ago."""
        now = clock.now_ns()
        return [
            node
            for node, offer in self._offers.items()
            if model in offer.withdrawn and now - offer.withdrawn[model] < WITHDRAWN_NS
        ]

    def awaited_since_ns(self, node: NodeId) -> int | None:
        """Since when it is waited for what a member offers; None: it has told, or will not."""
        offer = self._offers.get(node)
        since = self._began_ns if offer is None else offer.awaited_since_ns
        return None if since is None or clock.now_ns() - since >= TELL_NS else since

    def note_member(self, change: MembershipChanged) -> None:
        """A member came or went: one that comes anew tells anew what it offers."""
        is_gone = change.state in (State.DEAD, State.LEFT)
        has_come = change.previous in (None, State.DEAD, State.LEFT) and not is_gone
        offer = self._offers.get(change.node)
        if offer is None and has_come:
            offer = self._offers[change.node] = Offer()
        if offer is None:
            return
        if is_gone:
            offer.awaited_since_ns = None
        elif has_come and not (change.previous is None and offer.has_told):
            offer.awaited_since_ns = clock.now_ns()

    def forget(self, node: NodeId) -> None:
        """It is no member any more."""
        self._offers.pop(node, None)

    def note(self, change: OffersChanged) -> None:
        """A member offers something else."""
        offer = self._offers.get(change.node)
        if offer is None:
            offer = self._offers[change.node] = Offer(awaited_since_ns=self._began_ns)
        key, value = change.offer.key, change.offer.value
        if key == advertisement.FUNCTIONS:
            offer.functions = advertisement.decode_functions(value)
        elif key == advertisement.LABELS:
            offer.labels = advertisement.decode_labels(value)
        elif key == advertisement.HARDWARE:
            offer.tier = _tier_in(advertisement.decode_map(value))
            offer.has_told = offer.has_told or bool(value)
            if value and offer.awaited_since_ns is not None:
                soon_ns = clock.now_ns() - TELL_NS + _LAST_TOLD_NS
                offer.awaited_since_ns = min(offer.awaited_since_ns, soon_ns)
        elif key.startswith(advertisement.HELD_PREFIX):
            offer.held.pop(key, None)
            if hashes := advertisement.decode_held(value):
                offer.held[key] = hashes
        elif key.startswith(advertisement.MODEL_PREFIX):
            _note_model(offer, key, value)


def _note_model(offer: Offer, key: str, value: bytes) -> None:
    for name in [name for name in offer.cards if advertisement.model_key(name) == key]:
        del offer.cards[name]
        offer.speeds.pop(name, None)
        offer.withdrawn[name] = clock.now_ns()
    card = advertisement.decode_model(value) if value else None
    if card is not None:
        offer.withdrawn.pop(card.name, None)
    if len(offer.withdrawn) > WITHDRAWN_MAX:
        del offer.withdrawn[next(iter(offer.withdrawn))]
    if card is None or advertisement.model_key(card.name) != key:
        return  # else one model could be listed many times
    offer.cards[card.name] = card
    speed = advertisement.decode_speed(value)
    if speed is not None:
        offer.speeds[card.name] = speed


def _tier_in(hardware: Mapping[str, Any]) -> int:
    """The tier that a member says it is in; the lowest, if that makes no sense."""
    tier = hardware.get("tier")
    return tier if type(tier) is int and tier in (1, 2, 3) else LOWEST_TIER
