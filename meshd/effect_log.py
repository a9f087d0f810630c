"""The one place where what the node reports becomes a line of the log."""

import structlog

from protocol.effects import (
    Effect,
    Evicted,
    JoinRefused,
    MembershipChanged,
    Partitioned,
    Reunited,
    Superseded,
)
from protocol.identity import NodeId, key_text

log = structlog.get_logger()


def log_effect(effect: Effect, own: NodeId) -> None:
    """Say what happened, if it is something that people may want to know; `own`: this node."""
    match effect:
        case MembershipChanged() if effect.previous != effect.state:
            log.info(
                "member.changed",
                name=effect.name,
                node=key_text(effect.node)[:8],
                state=str(effect.state),
                previous=str(effect.previous) if effect.previous else "unknown",
            )
        case Partitioned():
            log.warning("mesh.partitioned", lost=effect.lost, present=effect.present)
        case Reunited():
            log.info("mesh.reunited", present=effect.present)
        case Superseded():
            log.error(
                "identity.superseded",
                reason="a newer node with this home's identity is in the mesh; this one is silent",
                mend="on the copy run meshd up --new-identity --join TOKEN",
            )
        case Evicted() if effect.node != own:
            kind = "member.revoked" if effect.is_revoked else "member.evicted"
            log.warning(kind, node=key_text(effect.node)[:8])
        case Evicted() if not effect.is_revoked:
            log.error(
                "identity.evicted",
                reason="another node has this one's place: its invite was used up elsewhere",
                mend="meshd up --new-identity --join TOKEN, with another invite",
            )
        case JoinRefused():
            log.warning("join.refused", node=key_text(effect.node)[:8], reason=effect.refusal)
