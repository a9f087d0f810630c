"""The one place for what members offer: each node's own signed key-value records.

One version counts over all keys of a node, so that a version names a state of them. An offer ends
with an empty value or with its owner; there is no time-to-live. Limits: records and bytes a node,
and bytes in all.
"""

from collections.abc import Callable, Mapping

from protocol.authority import Authority
from protocol.config import ProtocolConfig
from protocol.crypto import Crypto
from protocol.dissemination import Dissemination
from protocol.effects import MembersDirty, OffersChanged
from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.identity import INCARNATION_MAX, NodeId
from protocol.outbox import Outbox
from protocol.own_life import OwnLife
from protocol.statements import (
    OFFER_VALUE_BYTES_MAX,
    Offer,
    Statements,
    is_valid_offer_key,
    make_offer,
)


class Offers:
    """All offers that one node knows, its own among them."""

    def __init__(
        self,
        config: ProtocolConfig,
        crypto: Crypto,
        authority: Authority,
        statements: Statements,
        own_life: OwnLife,
        rumours: Dissemination,
        outbox: Outbox,
        *,
        on_changed: Callable[[NodeId], None],
    ) -> None:
        """`on_changed` hears of every member whose offers are others now."""
        self._config = config
        self._crypto = crypto
        self._authority = authority
        self._statements = statements
        self._own_life = own_life
        self._rumours = rumours
        self._outbox = outbox
        self._on_changed = on_changed
        self._offers: dict[NodeId, dict[str, Offer]] = {}
        self._bytes = 0
        """Of all offers together, as wire."""

    def of(self, node: NodeId) -> dict[str, bytes]:
        """Keys and values that a member offers now."""
        offers = self._offers.get(node, {})
        return {key: offer.value for key, offer in offers.items() if offer.value}

    def version(self, node: NodeId, key: str) -> int:
        """The version of one offer; 0 when there is none."""
        offer = self._offers.get(node, {}).get(key)
        return offer.version if offer is not None else 0

    def forget(self, node: NodeId) -> None:
        """Offers end with their owner's membership."""
        offers = self._offers.pop(node, None)
        if offers is not None:
            self._bytes -= _size(offers)
            self._on_changed(node)

    def held(self, node: NodeId) -> list[Offer]:
        """Every offer of a member, removals included (they must supersede elsewhere too)."""
        return list(self._offers.get(node, {}).values())

    def all(self) -> list[Offer]:
        """Every offer of everybody, removals included."""
        return [offer for offers in self._offers.values() for offer in offers.values()]

    def set_own(self, key: str, value: bytes) -> None:
        """Offer `value` under `key`; empty removes. Raises LocalProtocolError over the limits."""
        if not is_valid_offer_key(key):
            raise LocalProtocolError(f"{key!r} is no key of an offer")
        if len(value) > OFFER_VALUE_BYTES_MAX:
            raise LocalProtocolError(f"an offer is at most {OFFER_VALUE_BYTES_MAX} bytes")
        own = self._crypto.node_id
        known = self._offers.get(own, {}).get(key)
        if (known.value if known is not None else b"") == value:
            return
        self._own_life.offers_version += 1
        self._own_life.persist()
        version = self._own_life.offers_version
        offer = make_offer(self._crypto, self._authority.mesh, version, key, value)
        try:
            self._store(offer)
        except Refused as refused:
            raise LocalProtocolError(f"this node offers too much: {refused}") from refused
        self._statements.trust(offer)
        self._rumours.add(offer)

    def accept(self, offer: Offer) -> None:
        """A verified offer.

        Raises Refused: NOT_ADMITTED, NOT_ALLOWED, STALE, EQUIVOCATION, TABLE_FULL.
        """
        if offer.author == self._crypto.node_id:
            self._accept_own(offer)
            return
        role = self._authority.role_of(offer.author)
        if role is None:
            raise Refused(DropReason.NOT_ADMITTED)
        if not role.may_serve and offer.key.startswith("model/"):
            raise Refused(DropReason.NOT_ALLOWED, "this role serves nothing")
        is_second = offer.version == self.version(offer.author, offer.key)
        self._store(offer)
        self._rumours.add(offer)
        if is_second:
            raise Refused(DropReason.EQUIVOCATION)

    def _accept_own(self, offer: Offer) -> None:
        """An offer of ours comes back: from an earlier life, or from before a restored home.

        What we offer now is said again above its version; a key that we do not offer is removed.
        A removal of ours that others still keep is kept here too, so that we know the same.
        """
        if self._own_life.is_over:
            raise Refused(DropReason.STALE)  # this run states nothing any more
        known = self._offers.get(offer.author, {}).get(offer.key)
        own_version = self._own_life.offers_version
        if known is None:
            if offer.version <= own_version and not offer.value:
                self._store(offer)
                return
        elif offer.version < known.version or offer.wire == known.wire:
            raise Refused(DropReason.STALE)
        if offer.version >= INCARNATION_MAX:
            raise Refused(DropReason.STALE)  # there is no number above it
        self._own_life.offers_version = max(own_version, offer.version)
        self._restate(offer.key, known.value if known is not None else b"")

    def _restate(self, key: str, value: bytes) -> None:
        self._own_life.offers_version += 1
        self._own_life.persist()
        version = self._own_life.offers_version
        offer = make_offer(self._crypto, self._authority.mesh, version, key, value)
        self._store(offer)
        self._statements.trust(offer)
        self._rumours.add(offer)

    def _store(self, offer: Offer) -> None:
        offers = self._offers.get(offer.author, {})
        known = offers.get(offer.key)
        if known is not None:
            if known.version > offer.version or known.wire == offer.wire:
                raise Refused(DropReason.STALE)
            if known.version == offer.version and known.wire < offer.wire:
                # The same everywhere: of two offers under one version the lower bytes stay.
                raise Refused(DropReason.EQUIVOCATION)
        kept = {key: other for key, other in offers.items() if key != offer.key}
        # Removals are kept as long as there is room, so that no old offer returns meanwhile.
        removed = [other for other in kept.values() if not other.value]
        for removal in sorted(removed, key=lambda other: other.version):
            if self._has_room(kept, offer):
                break
            del kept[removal.key]
        if not self._has_room(kept, offer):
            raise Refused(DropReason.TABLE_FULL)
        size = self._bytes - _size(offers) + _size(kept) + len(offer.wire)
        is_own = offer.author == self._crypto.node_id
        if size > self._config.offer_bytes_max and size > self._bytes and not is_own:
            raise Refused(DropReason.TABLE_FULL, "of the mesh")
        self._bytes = size
        self._offers[offer.author] = {**kept, offer.key: offer}
        self._on_changed(offer.author)
        self._outbox.add(OffersChanged(offer.author, offer))
        self._outbox.add(MembersDirty())

    def _has_room(self, kept: Mapping[str, Offer], offer: Offer) -> bool:
        is_in_bytes = _size(kept) + len(offer.wire) <= self._config.offer_bytes_per_node_max
        return is_in_bytes and len(kept) < self._config.offers_per_node_max


def _size(offers: Mapping[str, Offer]) -> int:
    return sum(len(offer.wire) for offer in offers.values())
