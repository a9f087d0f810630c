"""The one place for what makes a home a member: the mesh's keys and the node's own admission."""

import dataclasses
from typing import Final

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import SEED_BYTES, new_seed, read_key, to_pem
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import MeshId, NodeId, mesh_id_of
from protocol.records import (
    RECORD_BYTES_MAX,
    Admission,
    Invite,
    Role,
    decode_record,
    make_founding,
    make_invite,
)

_VERSION: Final = 1
_OWN_RECORDS_MAX: Final = 64
FOUNDER: Final = "founder"
"""Whose every node is, unless its invite names another owner."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeshFile:
    """A home's membership, as `mesh.msgpack` keeps it."""

    root: bytes
    mesh_secret: bytes = dataclasses.field(repr=False)
    records: tuple[bytes, ...]
    """The invite and admission of this node, and what they rest on, premises first."""
    acts: int = 0
    """How many acts the root key of this home has signed (founder only)."""
    is_renewed: bool = False
    """The node's key was made for this membership, in a home that had another one before."""

    @property
    def mesh(self) -> MeshId:
        """Which mesh this is."""
        return mesh_id_of(self.root)


def read_mesh(home: Home) -> MeshFile | None:
    """What mesh this home belongs to; None for none. Raises UserError for a damaged file."""
    try:
        data = home.mesh.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {home.mesh}: {error.strerror}") from error
    try:
        fields = unpack_fields(data)
        if fields.take_int(0, 2**31) != _VERSION:
            raise UserError(f"{home.mesh} was written by another version of meshd; update it")
        root, secret = fields.take_bytes(32), fields.take_bytes(SEED_BYTES)
        records = fields.take_blobs(_OWN_RECORDS_MAX, RECORD_BYTES_MAX)
        return MeshFile(
            root=root,
            mesh_secret=secret,
            records=records,
            acts=fields.take_int(0, 2**53),
            is_renewed=fields.has_more and fields.take_int(0, 1) == 1,
        )
    except Refused as refused:
        raise UserError(
            f"{home.mesh} is damaged; restore it from a backup, or move it away and join again "
            "with a new invite"
        ) from refused


def write_mesh(home: Home, mesh: MeshFile) -> None:
    """Make this home a member: atomic, and the last step of founding and of joining."""
    data = pack(
        (_VERSION, mesh.root, mesh.mesh_secret, mesh.records, mesh.acts, int(mesh.is_renewed))
    )
    home.write(home.mesh, data, secret=True)


def found_mesh(home: Home, node_seed: bytes, wall_s: int) -> MeshFile:
    """Make a new mesh whose first member and founder this node is."""
    root_seed = new_seed()
    home.write(home.root_key, to_pem(root_seed), secret=True)
    root = public_key_of(root_seed)
    invite, admission = make_founding(
        root_seed,
        SodiumCrypto(node_seed),
        mesh_id_of(root),
        invite_seed=new_seed(),
        owner=FOUNDER,
        now_s=wall_s,
    )
    mesh = MeshFile(
        root=root, mesh_secret=new_seed(), records=(invite.wire, admission.wire), acts=1
    )
    write_mesh(home, mesh)
    return mesh


def check_may_invite(home: Home) -> tuple[MeshFile, bytes]:
    """What signs invites: the membership, and the root key's seed. Raises UserError without one."""
    mesh = read_mesh(home)
    root_seed = read_key(home.root_key)
    if mesh is None or root_seed is None or public_key_of(root_seed) != mesh.root:
        raise UserError(
            "only the machine that founded this mesh can invite; run meshd invite there"
        )
    return mesh, root_seed


def issue_invite(
    home: Home,
    *,
    role: Role,
    expires_at_s: int,
    uses: int,
    is_trusted: bool,
    owner: str,
) -> tuple[MeshFile, bytes, Invite]:
    """Sign an invite with the root key; (the file as it is now, the invite key's seed, invite).

    The act is counted on disk before anybody hears of it. Raises UserError without a root key.
    """
    mesh, root_seed = check_may_invite(home)
    mesh = dataclasses.replace(mesh, acts=mesh.acts + 1)
    write_mesh(home, mesh)
    invite_seed = new_seed()
    invite = make_invite(
        root_seed,
        mesh.mesh,
        key=public_key_of(invite_seed),
        act=mesh.acts,
        role=role,
        expires_at_s=expires_at_s,
        uses=uses,
        is_trusted=is_trusted,
        owner=owner,
    )
    return mesh, invite_seed, invite


def admission_chain(records: tuple[bytes, ...], node: NodeId, root: bytes) -> tuple[bytes, ...]:
    """Of all records, those that make `node` a member: its admission and what it rests on.

    Records come premises first; the result does too. Empty when the chain does not reach `root`.
    """
    invites: dict[bytes, bytes] = {}
    admissions: dict[bytes, Admission] = {}
    for wire in records:
        try:
            record = decode_record(wire)
        except Refused:
            continue
        if isinstance(record, Invite):
            invites[record.key] = wire
        else:
            admissions[record.node] = record
    chain: list[bytes] = []
    wanted: bytes = node
    while (admission := admissions.pop(wanted, None)) is not None:
        invite = invites.get(admission.proof.invite_key)
        if invite is None or len(chain) + 2 > _OWN_RECORDS_MAX:
            return ()
        chain += [admission.wire, invite]
        wanted = admission.admitter
    return tuple(reversed(chain)) if wanted == root else ()
