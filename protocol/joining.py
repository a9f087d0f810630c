"""The one place where a member decides whether it lets a newcomer in."""

import enum
from typing import Final

from protocol.authority import Authority
from protocol.crypto import Crypto
from protocol.identity import NodeId
from protocol.issuing import make_admission
from protocol.messages import JoinAnswer
from protocol.records import Admission, JoinProof, Role, Target, verify_join_proof

PROOFS_MAX: Final = 63
"""Records that say why somebody is no member."""


class JoinRefusal(enum.StrEnum):
    """Why a newcomer is not let in; each has its own words for the person who tries."""

    UNKNOWN_INVITE = "unknown_invite"
    BAD_PROOF = "bad_proof"
    EXPIRED = "expired"
    USED_UP = "used_up"
    CANNOT_ADMIT = "cannot_admit"
    FULL = "full"
    NODE_REVOKED = "node_revoked"
    INVITE_REVOKED = "invite_revoked"
    CATCHING_UP = "catching_up"
    """The member has been away and does not know yet what was decided meanwhile: ask again."""


def admit(
    authority: Authority, crypto: Crypto, proof: JoinProof, wall_s: int
) -> Admission | JoinRefusal:
    """Decide about a newcomer, as the admitting member; a new admission is still to be taken in.

    A node that is a member gets its old admission again, whatever its proof says: the caller
    knows by TLS that it speaks with `proof.node`. `wall_s`: Unix time, for the invite's deadline.
    """
    own = authority.role_of(crypto.node_id)
    if own is None or not own.may_admit:
        return JoinRefusal.CANNOT_ADMIT
    known = authority.admission(proof.node)
    if known is not None:
        return known
    if authority.revocation_of(proof.node) is not None:
        return JoinRefusal.NODE_REVOKED
    invite = authority.invite(proof.invite_key)
    if invite is None:
        return JoinRefusal.UNKNOWN_INVITE
    if invite.role is Role.ADMIN and own is not Role.ADMIN:
        return JoinRefusal.CANNOT_ADMIT
    if not verify_join_proof(crypto, authority.mesh, proof):
        return JoinRefusal.BAD_PROOF
    if authority.revocation_of(invite.key, Target.INVITE) is not None:
        return JoinRefusal.INVITE_REVOKED
    if wall_s >= invite.expires_at_s:
        return JoinRefusal.EXPIRED
    slot = authority.free_slot(invite)
    if slot is None:
        return JoinRefusal.USED_UP
    return make_admission(
        crypto, authority.mesh, proof, role=invite.role, slot=slot, admitted_at_s=wall_s
    )


def turn_away(authority: Authority, peer: NodeId) -> JoinAnswer | None:
    """Why somebody who thinks itself a member is none, with the records that prove it; None when
    it is merely unknown.
    """
    revocation = authority.revocation_of(peer)
    if revocation is not None:
        premises = authority.premises(NodeId(revocation.issuer), PROOFS_MAX)
        return JoinAnswer(JoinRefusal.NODE_REVOKED, (*premises, revocation.wire), ())
    for revocation in authority.revoked_ground_of(peer):
        premises = authority.premises(NodeId(revocation.issuer), PROOFS_MAX)
        return JoinAnswer(JoinRefusal.NODE_REVOKED, (*premises, revocation.wire), ())
    rival = authority.rival_of(peer)
    if rival is not None:
        return JoinAnswer(JoinRefusal.USED_UP, authority.premises(rival, PROOFS_MAX), ())
    return None
