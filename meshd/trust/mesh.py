"""The one place for what makes a home a member: the mesh's keys and the node's own admission."""

import dataclasses
from typing import Final

from meshd.failures import UserError
from meshd.home import Home
from meshd.trust.keys import SEED_BYTES, new_seed, read_private, write_key
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.errors import Refused
from protocol.fields import pack, unpack_fields
from protocol.identity import MeshId, mesh_id_of
from protocol.issuing import make_founding
from protocol.records import RECORD_BYTES_MAX

_VERSION: Final = 1
OWN_RECORDS_MAX: Final = 64
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
    """How many acts the key of this home has signed: the root key, or its node's as an admin."""
    is_renewed: bool = False
    """The node's key was made for this membership, in a home that had another one before."""

    @property
    def mesh(self) -> MeshId:
        """Which mesh this is."""
        return mesh_id_of(self.root)


def read_mesh(home: Home) -> MeshFile | None:
    """What mesh this home belongs to; None for none.

    Raises UserError for a file that is damaged, or that others can read.
    """
    data = read_private(home.mesh, "the membership")
    if data is None:
        return None
    try:
        fields = unpack_fields(data)
        if fields.take_int(0, 2**31) != _VERSION:
            raise UserError(f"{home.mesh} was written by another version of meshd; update it")
        root, secret = fields.take_bytes(32), fields.take_bytes(SEED_BYTES)
        records = fields.take_blobs(OWN_RECORDS_MAX, RECORD_BYTES_MAX)
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
    write_key(home, home.root_key, root_seed)
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


def note_acts(home: Home, acts: int) -> MeshFile:
    """Count, on disk, what the key of this home signs, before anybody hears of it; returns the file
    as it is now. Raises UserError for a home that is in no mesh.
    """
    mesh = read_mesh(home)
    if mesh is None:
        raise UserError("this node is in no mesh")
    mesh = dataclasses.replace(mesh, acts=max(acts, mesh.acts))
    write_mesh(home, mesh)
    return mesh
