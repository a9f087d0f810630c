"""The one place where tests wire real Nodes back to back, under a virtual clock.

`Mesh(3)` is three admitted machines; `mesh.start_all()` makes them one mesh. Datagrams and streams
lie in `mesh.post` until they are delivered, so a test may drop, copy, reorder and change them.
An `Insider` is an admitted key without a Node behind it: it says whatever the test wants.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence

from protocol.assembly import NodeConfig
from protocol.codec import encode_rider
from protocol.config import SECOND, ProtocolConfig
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.deadlines import NEVER
from protocol.effects import (
    AnswerStream,
    DatagramDropped,
    Effect,
    OpenStream,
    Persist,
    SendDatagram,
)
from protocol.envelope import Envelope, Told
from protocol.errors import DropReason, Refused
from protocol.events import (
    DatagramReceived,
    DeadlineReached,
    Event,
    SeedFound,
    Started,
    StreamFailed,
    StreamReceived,
)
from protocol.identity import Address, NodeId, mesh_id_of
from protocol.issuing import (
    FIRST_TURN,
    Turn,
    make_admission,
    make_founding,
    make_grant,
    make_invite,
    make_join_proof,
    make_keyed_admission,
    make_revocation,
    turn_after,
)
from protocol.members import State
from protocol.node import Node
from protocol.records import (
    NO_ACT,
    Admission,
    Grant,
    Invite,
    Revocation,
    Role,
    Target,
)
from protocol.snapshot import Snapshot
from protocol.statements import Alive, make_alive
from protocol.versions import VERSIONS

WALL_S = 1_800_000_000
"""When every test mesh was founded, in Unix time."""


def seed_of(*parts: object) -> bytes:
    """32 bytes that are the same in every run."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def address_of(index: int) -> Address:
    """Where machine `index` is reached."""
    return Address(f"10.0.0.{index + 1}", 7700)


class Authorities:
    """A root key, and the admissions that it and its first node gave out."""

    def __init__(self, label: object = "mesh") -> None:
        self.label = label
        self.root_seed = seed_of(label, "root")
        self.root = public_key_of(self.root_seed)
        self.mesh = mesh_id_of(self.root)
        self.founder = SodiumCrypto(seed_of(label, "node", 0))
        invite, founding = make_founding(
            self.root_seed,
            self.founder,
            self.mesh,
            invite_seed=seed_of(label, "founding"),
            owner="founder",
            now_s=WALL_S,
        )
        self.invite, self.founding = invite, founding
        self._turns = {self.root: turn_after(invite)}

    def issue(
        self,
        key_seed: bytes,
        *,
        role: Role = Role.WORKER,
        uses: int = 1,
        expires_at_s: int = WALL_S + 3600,
        issuer_seed: bytes | None = None,
    ) -> Invite:
        """An invite by the root key, or by somebody else's."""
        seed = issuer_seed or self.root_seed
        invite = make_invite(
            seed,
            self.mesh,
            key=public_key_of(key_seed),
            turn=self.turn(seed),
            role=role,
            expires_at_s=expires_at_s,
            uses=uses,
            is_trusted=False,
            owner="owner",
        )
        self._turns[invite.issuer] = turn_after(invite)
        return invite

    def turn(self, issuer_seed: bytes) -> Turn:
        """The place of an issuer's next act."""
        return self._turns.get(public_key_of(issuer_seed), FIRST_TURN)

    def grant(self, subject: NodeId, issuer_seed: bytes | None = None) -> Grant:
        """Make a member an admin."""
        seed = issuer_seed or self.root_seed
        grant = make_grant(seed, self.mesh, subject=subject, turn=self.turn(seed))
        self._turns[grant.issuer] = turn_after(grant)
        return grant

    def revoke(
        self,
        subject: bytes,
        target: Target = Target.NODE,
        *,
        issuer_seed: bytes | None = None,
        honoured_act: bytes = NO_ACT,
        honoured_slot: int = 0,
    ) -> Revocation:
        """Take something back."""
        seed = issuer_seed or self.root_seed
        revocation = make_revocation(
            seed,
            self.mesh,
            target=target,
            subject=subject,
            turn=self.turn(seed),
            honoured_act=honoured_act,
            honoured_slot=honoured_slot,
        )
        self._turns[revocation.issuer] = turn_after(revocation)
        return revocation

    def admit(
        self,
        crypto: SodiumCrypto,
        *,
        role: Role = Role.WORKER,
        slot: int = 1,
        invite: Invite | None = None,
        key_seed: bytes | None = None,
        admitter: SodiumCrypto | None = None,
        admitted_at_s: int = WALL_S,
    ) -> tuple[Invite, Admission]:
        """An invite of its own (unless given) and the admission that uses it."""
        key_seed = key_seed or seed_of(self.label, "invite", crypto.node_id, role, slot)
        invite = invite or self.issue(key_seed, role=role)
        proof = make_join_proof(key_seed, crypto, self.mesh)
        admission = make_admission(
            admitter or self.founder,
            self.mesh,
            proof,
            role=role,
            slot=slot,
            admitted_at_s=admitted_at_s,
        )
        return invite, admission

    def admit_again(
        self, admission: Admission, admitter_seed: bytes | None = None, *, later: int = 0
    ) -> Admission:
        """The root key, or another one, lets in who is in already, `later` by so many seconds."""
        return make_keyed_admission(
            admitter_seed or self.root_seed,
            self.mesh,
            admission.proof,
            role=admission.role,
            slot=admission.slot,
            admitted_at_s=admission.admitted_at_s + later,
        )


@dataclasses.dataclass(slots=True)
class Machine:
    """One test machine: key, disk, and the node that runs on it."""

    index: int
    crypto: SodiumCrypto
    address: Address
    node: Node | None = None
    incarnation: int = 0
    offers_version: int = 0
    boot: int = 0
    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    log: list[Effect] = dataclasses.field(default_factory=list)
    """Every effect so far."""

    @property
    def id(self) -> NodeId:
        """Its public key."""
        return self.crypto.node_id

    def drops(self) -> list[DropReason]:
        """Why things were refused here, in order."""
        return [effect.reason for effect in self.log if isinstance(effect, DatagramDropped)]


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """A datagram under way."""

    source: Address
    to: Address
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A stream under way: its first message."""

    opener: int
    peer: NodeId
    data: bytes


class Mesh:
    """Machines that know each other's admissions, and the post between them."""

    def __init__(
        self,
        size: int,
        *,
        roles: Sequence[Role] = (),
        versions: Sequence[tuple[int, int]] = (),
        protocol: ProtocolConfig | None = None,
        label: object = "mesh",
    ) -> None:
        """`roles`, `versions`: of the first machines; the others are workers of today's version."""
        self.authorities = Authorities(label)
        self.versions = versions
        self.protocol = protocol or ProtocolConfig()
        self.now = 10 * SECOND
        self.post: list[Parcel] = []
        self.requests: list[Request] = []
        self.on_event: Callable[[Machine], None] = lambda machine: None
        """Called after each event that a machine took."""
        self._streams: dict[int, tuple[int, int]] = {}
        self._stream = 0
        records = [self.authorities.invite.wire, self.authorities.founding.wire]
        self.machines: list[Machine] = []
        for index in range(size):
            crypto = SodiumCrypto(seed_of(label, "node", index))
            if index > 0:
                role = roles[index] if index < len(roles) else Role.WORKER
                invite, admission = self.authorities.admit(crypto, role=role)
                records += [invite.wire, admission.wire]
            self.machines.append(Machine(index, crypto, address_of(index)))
        self.records = tuple(records)
        for machine in self.machines:
            machine.snapshot = Snapshot(records=self.records)

    def __getitem__(self, index: int) -> Node:
        node = self.machines[index].node
        assert node is not None
        return node

    def id(self, index: int) -> NodeId:
        """The key of a machine."""
        return self.machines[index].id

    # ---- life ----

    def boot(self, index: int) -> Node:
        """Make a machine's node, without starting it."""
        machine = self.machines[index]
        machine.boot = max(machine.boot + 1, self.now // SECOND << 24 | 7 * index)
        machine.node = Node(
            NodeConfig(
                name=f"n{index}",
                software="test",
                root=self.authorities.root,
                boot=machine.boot,
                boot_secret=seed_of(index, machine.boot),
                incarnation=machine.incarnation,
                offers_version=machine.offers_version,
                versions=self.versions[index] if index < len(self.versions) else VERSIONS,
                snapshot=machine.snapshot,
                protocol=self.protocol,
            ),
            machine.crypto,
            random.Random(index * 1000 + machine.boot),
        )
        return machine.node

    def start(self, index: int) -> None:
        """Boot and publish."""
        self.boot(index)
        self.give(index, Started((self.machines[index].address,)))

    def start_all(self) -> "Mesh":
        """Start everybody and let everybody exchange with everybody."""
        for machine in self.machines:
            self.start(machine.index)
        self.settle()
        for one in self.machines:
            for other in self.machines[: one.index]:
                self.exchange(one.index, other.index)
        self.advance(3 * SECOND)
        for machine in self.machines:
            machine.log.clear()
        return self

    def exchange(self, asker: int, answerer: int) -> None:
        """One push/pull between two machines."""
        self.give(asker, SeedFound(self.id(answerer), address_of(answerer)))
        self.settle()

    def crash(self, index: int, *, keeps_snapshot: bool = True) -> None:
        """The process is gone; own numbers always stay on disk."""
        machine = self.machines[index]
        fresh = Snapshot(records=self.records)
        machine.snapshot = self[index].snapshot() if keeps_snapshot else fresh
        machine.node = None

    # ---- events ----

    def give(self, index: int, event: Event) -> list[Effect]:
        """Hand an event to a node and carry out its effects, posting what is sent."""
        machine = self.machines[index]
        if machine.node is None:
            return []
        effects = machine.node.handle(event, self.now)
        for effect in effects:
            self._carry_out(machine, effect)
        self.on_event(machine)
        return effects

    def _carry_out(self, machine: Machine, effect: Effect) -> None:
        machine.log.append(effect)
        match effect:
            case SendDatagram():
                self.post.append(Parcel(machine.address, effect.to, effect.data))
            case OpenStream():
                self.requests.append(Request(machine.index, effect.peer, effect.data))
            case AnswerStream():
                opener, target = self._streams.pop(effect.stream)
                event = StreamReceived(effect.stream, self.id(target), effect.data, self.wall_s)
                self.give(opener, event)
            case Persist():
                machine.incarnation = effect.incarnation
                machine.offers_version = effect.offers_version
            case _:
                pass

    @property
    def wall_s(self) -> int:
        """Unix time."""
        return WALL_S + self.now // SECOND

    def hand_over(self, parcel: Parcel) -> list[Effect]:
        """Deliver one datagram, if its address belongs to a machine."""
        for machine in self.machines:
            if machine.address == parcel.to:
                return self.give(machine.index, DatagramReceived(parcel.data, parcel.source))
        return []

    def connect(self, request: Request) -> list[Effect]:
        """Deliver the first message of a stream."""
        for machine in self.machines:
            if machine.id == request.peer and machine.node is not None:
                self._stream += 1
                self._streams[self._stream] = (request.opener, machine.index)
                opener = self.id(request.opener)
                event = StreamReceived(self._stream, opener, request.data, self.wall_s)
                return self.give(machine.index, event)
        return self.give(request.opener, StreamFailed(request.peer))

    def settle(self, rounds: int = 10_000) -> None:
        """Deliver everything until nothing is under way; time stands still."""
        for _ in range(rounds):
            if self.post:
                self.hand_over(self.post.pop(0))
            elif self.requests:
                self.connect(self.requests.pop(0))
            else:
                return
        raise AssertionError("this never settles")

    def deadline(self) -> int:
        """When the next node wants to act."""
        return min((m.node.deadline for m in self.machines if m.node is not None), default=NEVER)

    def advance(self, duration_ns: int, *, deliver: bool = True) -> None:
        """Let time pass from deadline to deadline, delivering everything at once."""
        end = self.now + duration_ns
        while (due := self.deadline()) <= end:
            self.now = max(self.now, due)
            for machine in self.machines:
                if machine.node is not None and machine.node.deadline <= self.now:
                    self.give(machine.index, DeadlineReached())
                    if machine.node.deadline <= self.now:
                        # A death just now may have made a doubt due at this very moment; once.
                        self.give(machine.index, DeadlineReached())
                    assert machine.node.deadline > self.now
            if deliver:
                self.settle()
        self.now = end

    def state(self, viewer: int, subject: int) -> State | None:
        """How one machine sees another."""
        return self[viewer].members.state(self.id(subject))

    def is_one(self) -> bool:
        """Whether all running nodes see each other alive, and nobody else present."""
        running = [m for m in self.machines if m.node is not None]
        expected = sorted(machine.id for machine in running)
        return all(
            sorted(m.node.members.present()) == expected and not m.node.members.suspicions
            for m in running
            if m.node is not None
        )


class Insider:
    """An admitted key that seals correctly and says whatever it likes."""

    def __init__(self, mesh: Mesh, index: int) -> None:
        self.mesh = mesh
        self.index = index
        self.crypto = mesh.machines[index].crypto
        self.address = mesh.machines[index].address
        self.envelope = Envelope(
            self.crypto, mesh.authorities.mesh, mesh.now << 10, seed_of(index, mesh.now)
        )

    def alive(self, incarnation: int = 1) -> Alive:
        """What a real node would state of itself."""
        mesh = self.mesh.authorities.mesh
        return make_alive(self.crypto, mesh, incarnation, "insider", (self.address,), "test")

    def send(self, to: int, payload: bytes) -> list[Effect]:
        """Say this to a machine, proving our address on the way; returns what it did."""
        peer = self.mesh.id(to)
        for _ in range(2):
            data = self.envelope.seal(peer, payload)
            assert data is not None
            effects = self.mesh.give(to, DatagramReceived(data, self.address))
            answers = [e.data for e in effects if isinstance(e, SendDatagram)]
            if not any(self._is_told(peer, answer) for answer in answers):
                return effects
        raise AssertionError("challenged twice")

    def _is_told(self, peer: NodeId, answer: bytes) -> bool:
        if answer[1] != 1:
            return False
        return isinstance(self.envelope.open(answer, self.address, peer), Told)

    def tell(self, to: int, message: bytes, *riders: bytes) -> list[Effect]:
        """A message with statements or records riding along."""
        return self.send(to, message + b"".join(map(encode_rider, riders)))


def tampered(wire: bytes) -> bytes:
    """The same with another signature, which cannot hold."""
    return wire[:-1] + bytes((wire[-1] ^ 1,))


def refusal(decode: Callable[[bytes], object], data: bytes) -> DropReason | None:
    """Why `decode` refuses these bytes; None when it takes them. Others raise through."""
    try:
        decode(data)
    except Refused as refused:
        return refused.reason
    return None


def drops_in(effects: Sequence[Effect]) -> list[DropReason]:
    """Why things were refused, in order."""
    return [effect.reason for effect in effects if isinstance(effect, DatagramDropped)]
