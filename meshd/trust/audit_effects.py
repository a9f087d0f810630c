"""The one place that says which of a node's effects are security-relevant acts, and how they read
in the audit log.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from meshd.trust.audit import Audit
from protocol.authority import Authority
from protocol.effects import (
    Admitted,
    DatagramDropped,
    Effect,
    Equivocated,
    Evicted,
    JoinRefused,
    Superseded,
)
from protocol.errors import DropReason
from protocol.identity import Address, NodeId, key_text

_FORGERIES: Final = (DropReason.BAD_SIGNATURE, DropReason.MUTED, DropReason.NOT_ALLOWED)
"""Refusals that no honest member causes; the others are a network's everyday life."""


def note_effect(
    audit: Audit, effect: Effect, authority: Authority, host_of: Callable[[NodeId], str | None]
) -> None:
    """Note `effect` if it is such an act; `host_of` says from where a peer asks just now."""
    match effect:
        case Admitted():
            audit.note("member.admitted", **_admission(effect.node, authority, host_of))
        case JoinRefused():
            audit.note(
                "join.refused",
                reason=effect.refusal,
                peer=key_text(effect.node),
                address=host_of(effect.node),
            )
        case Evicted():
            audit.note(
                "member.revoked" if effect.is_revoked else "member.evicted",
                node=key_text(effect.node),
            )
        case Superseded():
            audit.note("identity.superseded", incarnation=effect.incarnation)
        case Equivocated():
            audit.note("member.equivocated", node=key_text(effect.node))
        case DatagramDropped() if effect.reason in _FORGERIES:
            audit.note("statement.refused", reason=effect.reason.value, **_source(effect.source))


def _admission(
    node: NodeId, authority: Authority, host_of: Callable[[NodeId], str | None]
) -> Mapping[str, Any]:
    role, invite = authority.role_of(node), authority.invite_of(node)
    return {
        "node": key_text(node),
        "address": host_of(node),
        "role": role.name.lower() if role is not None else None,
        "invite": key_text(invite.key) if invite is not None else None,
        "owner": invite.owner if invite is not None else None,
    }


def _source(source: Address | NodeId) -> Mapping[str, str]:
    if isinstance(source, Address):
        return {"address": source.host}  # ports change from one datagram to the next
    return {"peer": key_text(source)}
