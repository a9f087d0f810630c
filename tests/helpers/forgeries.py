"""The one place for lies that a member can tell: each kind of statement and record, in the name of
somebody else. The bytes are those of an honest node, but for whose key has signed.
"""

import dataclasses
import secrets

from meshd.advertisement import encode_model, model_key
from meshd.trust.token import Token
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.errors import DropReason
from protocol.identity import Address, MeshId, NodeId
from protocol.issuing import (
    FIRST_TURN,
    make_admission,
    make_api_key,
    make_grant,
    make_invite,
    make_join_proof,
    make_revocation,
)
from protocol.records import JoinProof, Priority, Role, Target
from protocol.statements import make_accusation, make_alive, make_left, make_offer
from runtimes.base import ModelCard

STOLEN_MODEL = "stolen-model"
STOLEN_NAME = "stolen-name"
HIGH = 1_000_000
"""An incarnation or version that would supersede whatever is known."""


class BorrowedName(SodiumCrypto):
    """Signs with its own key and says that it is somebody else."""

    def __init__(self, seed: bytes, name: NodeId) -> None:
        super().__init__(seed)
        self._node_id = name


@dataclasses.dataclass(frozen=True, slots=True)
class Forgery:
    """A lie, and why it is refused."""

    what: str
    wire: bytes
    reason: DropReason
    is_record: bool = False


class Forger:
    """Makes lies of one member about others."""

    def __init__(
        self, seed: bytes, mesh: MeshId, victim: NodeId, third: NodeId, incarnation: int
    ) -> None:
        """`seed`: the liar's own key. `victim`: in whose name it speaks. `third`: about whom, at
        which `incarnation`.
        """
        self._own = SodiumCrypto(seed)
        self._seed = seed
        self._mesh = mesh
        self._victim = victim
        self._third = third
        self._incarnation = incarnation
        self._as_victim = BorrowedName(seed, victim)
        self.accomplice_seed = secrets.token_bytes(32)
        self.accomplice = SodiumCrypto(self.accomplice_seed)
        """A key that nobody has invited."""

    def statements(self) -> list[Forgery]:
        """In the victim's name: its life, its goodbye, its offers, its accusation of a third."""
        name, mesh = self._as_victim, self._mesh
        card = ModelCard(name=STOLEN_MODEL, content_hash="00", runtime="test")
        here = (Address("127.0.0.1", 9),)
        wires = {
            "alive": make_alive(name, mesh, HIGH, STOLEN_NAME, here, "0").wire,
            "left": make_left(name, mesh, HIGH).wire,
            "offer": make_offer(name, mesh, HIGH, model_key(STOLEN_MODEL), encode_model(card)).wire,
            "accusation": make_accusation(
                name, mesh, self._third, self._incarnation, is_dead=True
            ).wire,
        }
        return [Forgery(what, wire, DropReason.BAD_SIGNATURE) for what, wire in wires.items()]

    def records(self, token: Token) -> list[Forgery]:
        """Of the root key, of the victim, and of our own beyond what we may. `token`: ours."""
        mesh, bad, odd = self._mesh, DropReason.BAD_SIGNATURE, DropReason.NOT_ALLOWED
        wish = make_join_proof(token.invite_seed, self.accomplice, mesh)
        unsigned = JoinProof(
            self.accomplice.node_id, wish.invite_key, wish.invite_signature, bytes(64)
        )
        acts: dict[str, tuple[bytes, DropReason]] = {}
        for what, wire in self._acts().items():
            acts[f"{what} by a worker"] = (wire, odd)
            acts[f"{what} by the root key"] = (wire.replace(self._own.node_id, token.root), bad)
        made = {
            **acts,
            "admission by the victim": (self._admission(self._as_victim, wish), bad),
            "admission by the root key": (
                self._admission(BorrowedName(self._seed, NodeId(token.root)), wish),
                bad,
            ),
            "admission of who does not want to": (self._admission(self._own, unsigned), bad),
            "admission to another role": (self._admission(self._own, wish, Role.ADMIN), odd),
            "admission beyond the uses": (
                self._admission(self._own, wish, slot=token.invite.uses + 1),
                odd,
            ),
        }
        return [Forgery(what, wire, why, True) for what, (wire, why) in made.items()]

    def _acts(self) -> dict[str, bytes]:
        """What only an admin may decide, decided by us: in our own favour, against others."""
        seed, mesh = self._seed, self._mesh
        invite = make_invite(
            seed,
            mesh,
            key=public_key_of(secrets.token_bytes(32)),
            turn=FIRST_TURN,
            role=Role.ADMIN,
            expires_at_s=2**33,
            uses=1_000,
            is_trusted=True,
            owner="nobody",
        )
        grant = make_grant(seed, mesh, subject=self._victim, turn=FIRST_TURN)
        revocation = make_revocation(
            seed, mesh, target=Target.NODE, subject=self._third, turn=FIRST_TURN
        )
        key = make_api_key(
            seed,
            mesh,
            key_hash=secrets.token_bytes(32),
            turn=FIRST_TURN,
            name="stolen",
            requests=1_000,
            period_s=1,
            priority=Priority.HIGH,
            models="",
            is_trusted=True,
            expires_at_s=0,
        )
        return {
            "invite": invite.wire,
            "grant": grant.wire,
            "revocation": revocation.wire,
            "API key": key.wire,
        }

    def _admission(
        self,
        admitter: SodiumCrypto,
        wish: JoinProof,
        role: Role = Role.WORKER,
        slot: int = 1_000,
    ) -> bytes:
        return make_admission(
            admitter, self._mesh, wish, role=role, slot=slot, admitted_at_s=1
        ).wire
