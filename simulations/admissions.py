"""The one place where simulated hosts are founder and members before anything runs."""

from collections.abc import Callable, Sequence
from typing import Final

from protocol.crypto import public_key_of
from protocol.identity import MeshId
from protocol.issuing import make_admission, make_founding, make_invite, make_join_proof, turn_after
from protocol.records import Role
from protocol.snapshot import Snapshot
from simulations.host import Host

WALL_START_S: Final = 1_800_000_000
"""Unix time at the beginning of every simulation."""


def admit_all(
    hosts: Sequence[Host], root_seed: bytes, mesh: MeshId, draw_bytes: Callable[[int], bytes]
) -> None:
    """Write to every disk what its host would know just after joining: who founded the mesh, the
    invite, its own admission.
    """
    founder, *others = hosts
    invite, founding = make_founding(
        root_seed,
        founder.crypto,
        mesh,
        invite_seed=draw_bytes(32),
        owner="founder",
        now_s=WALL_START_S,
    )
    common = [invite.wire, founding.wire]
    if not others:
        founder.snapshot = founder.admitted = Snapshot(records=tuple(common))
        return
    invite_seed = draw_bytes(32)
    offer = make_invite(
        root_seed,
        mesh,
        key=public_key_of(invite_seed),
        turn=turn_after(invite),
        role=Role.WORKER,
        expires_at_s=WALL_START_S + 3600,
        uses=len(others),
        is_trusted=False,
        owner="founder",
    )
    common.append(offer.wire)
    for slot, host in enumerate(others, start=1):
        admission = make_admission(
            founder.crypto,
            mesh,
            make_join_proof(invite_seed, host.crypto, mesh),
            role=Role.WORKER,
            slot=slot,
            admitted_at_s=WALL_START_S,
        )
        host.snapshot = Snapshot(records=(*common, admission.wire))
    founder.snapshot = Snapshot(records=tuple(common))
    for host in hosts:
        host.admitted = host.snapshot
