"""The one place where a home becomes a member of a mesh, and where it gives that up.

Joining: read the token, ask its seeds over TLS until one answers, check the answer against the
token's root key, write the members down, and last of all `mesh.msgpack`: a crash before that
leaves a home that is no member and may simply ask again (the same node gets the same admission).

Joining anew (`meshd up --new-identity`) does all of that in a home inside the home, which is put
in place of the old identity once it is a member. A crash before that leaves the old identity, and
the new key for the next attempt; a refusal leaves the old identity alone.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import structlog
import trio

from meshd.failures import ExitCode, UserError
from meshd.frames import StreamBroken
from meshd.home import Home
from meshd.peers import STREAM_VERSION, Kind, Peers, PeerUnreachable
from meshd.persistence import read_snapshot, write_snapshot
from meshd.trust.audit import note_once
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed
from meshd.trust.mesh import OWN_RECORDS_MAX, MeshFile, read_mesh, write_mesh
from meshd.trust.token import BadToken, Token, decode_token
from protocol.authority import Authority
from protocol.codec import STREAM_BYTES_MAX, decode_stream, encode_stream
from protocol.crypto import SodiumCrypto
from protocol.errors import Refused
from protocol.fields import pack
from protocol.identity import Address, MeshId, key_text
from protocol.issuing import make_join_proof
from protocol.joining import JoinRefusal
from protocol.messages import Join, JoinAnswer
from protocol.records import Admission, decode_record
from protocol.snapshot import Snapshot
from protocol.statements import Alive, Left, decode_statement

log = structlog.get_logger()

SEEDS_S: Final = 15.0
"""Seeds that cannot be reached for so long end the attempt."""
RETRY_S: Final = 0.5
ANSWER_S: Final = 10.0

_REFUSALS: Final[Mapping[str, str]] = {
    JoinRefusal.UNKNOWN_INVITE: "this invite was not issued by an admin; ask for another",
    JoinRefusal.BAD_PROOF: "the invite's key does not fit; copy the whole token again",
    JoinRefusal.EXPIRED: "this invite has expired; ask for a new one (meshd invite)",
    JoinRefusal.USED_UP: "this invite is used up; ask for a new one (meshd invite --uses N)",
    JoinRefusal.FULL: "the mesh has no room for another member",
    JoinRefusal.NODE_REVOKED: "this node was revoked; an admin may invite it anew, then: "
    "meshd up --new-identity --join TOKEN",
    JoinRefusal.INVITE_REVOKED: "this invite was revoked; ask for a new one (meshd invite)",
}


class JoinRefused(UserError):
    """The mesh answered, and the answer is no."""


class CannotAdmit(Exception):
    """That member may not let this one in; another one may."""


def read_token(text: str) -> Token:
    """Decode a token for a person. Raises UserError."""
    try:
        return decode_token(text)
    except BadToken as error:
        raise UserError(
            f"this is no valid token: {error}; copy the whole line that meshd invite printed"
        ) from error


def check_joinable(home: Home, token: Token, *, has_company: bool | None = None) -> bool:
    """As `check_mesh_joinable`, for the mesh of a token."""
    return check_mesh_joinable(home, token.mesh, has_company=has_company)


def check_mesh_joinable(home: Home, mesh: MeshId, *, has_company: bool | None = None) -> bool:
    """Whether joining would change anything. Raises UserError for a member of another mesh.

    A mesh that this home founded and that never had a second member may simply be replaced; a
    running node knows better than its disk whether it had (`has_company`).
    """
    current = read_mesh(home)
    if current is None:
        return True
    if current.mesh == mesh:
        return False
    if has_company is None:
        has_company = _had_company(home, current)
    if home.root_key.exists() and not has_company:
        return True
    raise UserError(
        f"this node is a member of another mesh ({key_text(current.mesh)}); "
        "give that up first with: meshd leave"
    )


def _had_company(home: Home, mesh: MeshFile) -> bool:
    """By the records that count in this mesh: a join that crashed leaves another one's behind."""
    crypto = SodiumCrypto(node_seed(home))
    authority = Authority(crypto, mesh.root)
    authority.load((*mesh.records, *read_snapshot(home).records))
    admitted = [record.node for record in authority.records() if isinstance(record, Admission)]
    return any(node != crypto.node_id for node in admitted)


async def join(home: Home, token: Token, memory: trio.Lock | None = None) -> None:
    """Become a member; the home's lock is held by the caller.

    `memory` is held while files are written (and not while seeds are asked). Raises UserError:
    refused, seeds unreachable.
    """
    seed = node_seed(home)
    crypto = SodiumCrypto(seed)
    ensure_certificates(home, token.mesh_secret, seed)
    peers = Peers(make_contexts(home), crypto.node_id, lambda node: None)
    proof = make_join_proof(token.invite_seed, crypto, token.mesh)
    message = encode_stream(Join(token.invite.wire, proof))
    answer = await _ask_seeds(peers, token, message)
    authority = Authority(crypto, token.root)
    authority.load(answer.records)
    if authority.admission(crypto.node_id) is None:
        raise UserError("that member's answer does not prove an admission; try another member")
    records = tuple(record.wire for record in authority.records())
    async with memory or contextlib.nullcontext():
        write_snapshot(home, _snapshot(records, answer.statements, crypto))
        chain = authority.premises(crypto.node_id, OWN_RECORDS_MAX)
        old_root = home.root_key.exists()
        write_mesh(home, MeshFile(root=token.root, mesh_secret=token.mesh_secret, records=chain))
        if old_root:
            home.root_key.unlink(missing_ok=True)
    log.info("mesh.joined", mesh=key_text(token.mesh))


async def join_anew(home: Home, token: Token) -> pathlib.Path | None:
    """Become a member under a new key; gives the archive of the identity before, if there was one.

    Nothing is changed or used up where this invite has done that already: options that stay in a
    service's command line must not make a node at each start. Raises UserError as `join`; the
    home is then as it was.
    """
    if _is_renewed_by(home, token):
        return None
    inner = home.next_identity()
    if not _is_for(inner, token):  # what another attempt left there
        home.discard_next_identity()
        inner = home.next_identity()
    if not inner.mesh.exists():
        try:
            await join(inner, token)
        except UserError:
            home.discard_next_identity()
            raise
    mesh = read_mesh(inner)
    assert mesh is not None
    write_mesh(inner, dataclasses.replace(mesh, is_renewed=True))
    return home.take_next_identity()


def _is_renewed_by(home: Home, token: Token) -> bool:
    """Whether this home's membership is that of a new identity, by this very invite."""
    try:
        mesh = read_mesh(home)
    except UserError:  # a damaged membership is one to be replaced
        return False
    return mesh is not None and mesh.is_renewed and _is_admitted_by(mesh, token)


def _is_for(home: Home, token: Token) -> bool:
    """Whether a home is no member yet, or one by this very invite."""
    try:
        mesh = read_mesh(home)
    except UserError:
        return False
    return mesh is None or _is_admitted_by(mesh, token)


def _is_admitted_by(mesh: MeshFile, token: Token) -> bool:
    """Premises come first: the own admission is the last record."""
    if mesh.root != token.root or token.invite.wire not in mesh.records:
        return False
    own = decode_record(mesh.records[-1])
    return isinstance(own, Admission) and own.proof.invite_key == token.invite.key


def _snapshot(
    records: tuple[bytes, ...], statements: tuple[bytes, ...], crypto: SodiumCrypto
) -> Snapshot:
    """What to begin with; the node itself checks signatures when it reads it."""
    lives: list[bytes] = []
    goodbyes: list[bytes] = []
    for wire in statements:
        with contextlib.suppress(Refused):
            statement = decode_statement(wire)
            if statement.author == crypto.node_id:
                continue
            if isinstance(statement, Alive):
                lives.append(wire)
            elif isinstance(statement, Left):
                goodbyes.append(wire)
    return Snapshot(records, tuple(lives), tuple(goodbyes))


async def _ask_seeds(peers: Peers, token: Token, message: bytes) -> JoinAnswer:
    """The first seed's yes. Raises JoinRefused for a no, UserError when nobody answers in time."""
    reasons: dict[Address, str] = {}
    with trio.move_on_after(SEEDS_S):
        while True:
            for seed in token.seeds:
                try:
                    return await _ask_seed(peers, seed, message)
                except (PeerUnreachable, StreamBroken, Refused, CannotAdmit) as error:
                    reasons[seed] = str(error).removeprefix(f"{seed}: ")
            await trio.sleep(RETRY_S)
    tried = "; ".join(f"{seed}: {reasons.get(seed, 'no answer')}" for seed in token.seeds)
    raise UserError(
        f"no member of the mesh could be reached within {SEEDS_S:.0f} s ({tried}); is it running, "
        "and can this machine reach it?"
    )


async def _ask_seed(peers: Peers, seed: Address, message: bytes) -> JoinAnswer:
    connection = await peers.dial(None, [seed])
    try:
        with trio.fail_after(ANSWER_S):
            await connection.frames.send(pack((STREAM_VERSION, Kind.GOSSIP)))
            await connection.frames.send(message)
            data = await connection.frames.receive(STREAM_BYTES_MAX)
    except trio.TooSlowError as error:
        raise StreamBroken("no answer") from error
    finally:
        await connection.frames.aclose()
    if data is None:
        raise StreamBroken("it closed the stream; it may have left that mesh")
    answer = decode_stream(data)
    if not isinstance(answer, JoinAnswer):
        raise StreamBroken("it answered something else")
    if answer.refusal == JoinRefusal.CATCHING_UP:
        raise StreamBroken("it has just come back itself; trying again")
    if answer.refusal == JoinRefusal.CANNOT_ADMIT:
        raise CannotAdmit("it may not let this one in; trying the others")
    if answer.refusal:
        unknown = f"the mesh refused ({answer.refusal[:64]!a})"
        raise JoinRefused(_REFUSALS.get(answer.refusal, unknown))
    return answer


def give_up(home: Home) -> str:
    """Forget the mesh; returns its id. The node's own key stays. Raises UserError."""
    mesh = read_mesh(home)
    if mesh is None:
        raise UserError("this node is in no mesh")
    text = key_text(mesh.mesh)
    # A founder's root key is kept under the mesh's name before anything goes: whatever a crash
    # leaves behind, a new mesh cannot overwrite it. Then the membership: the rest is litter.
    if home.root_key.exists():
        kept = home.path / f"root-{text[:8]}.key"
        home.write(kept, home.root_key.read_bytes(), secret=True)
    home.mesh.unlink(missing_ok=True)
    for path in (home.root_key, home.members, home.tls):
        path.unlink(missing_ok=True)
    return text


async def join_offline(home: Home, text: str) -> Mapping[str, Any]:
    """`meshd join` without a daemon: `{"mesh": ID, "changed": bool}`. Raises UserError."""
    token = read_token(text)
    with home.locked():
        is_needed = check_joinable(home, token)
        if is_needed:
            await join(home, token)
            _note(home, "mesh.joined", key_text(token.mesh))
    return {"mesh": key_text(token.mesh), "changed": is_needed}


async def leave_offline(home: Home) -> Mapping[str, Any]:
    """`meshd leave` without a daemon: `{"mesh": ID}`. Raises UserError."""
    await trio.lowlevel.checkpoint()
    if not home.mesh.exists():
        raise UserError("this node is in no mesh", ExitCode.FAILED)
    with home.locked():
        mesh = give_up(home)
        _note(home, "mesh.left", mesh)
    return {"mesh": mesh}


def _note(home: Home, kind: str, mesh: str) -> None:
    """Into the audit log, unless there is no key to sign it with: that is no reason to stay."""
    with contextlib.suppress(UserError):
        note_once(home, SodiumCrypto(node_seed(home)), kind, mesh=mesh)
