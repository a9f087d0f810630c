"""The one place where tests stand in for a machine: they read what is sent there, and answer.

`tapped(3, 1, 2)` is a mesh whose machine 0 is a real node that knows 1 and 2 alive; those two are
taps. `run` lets time pass in small steps and delivers between real nodes only.
"""

from protocol.codec import decode_datagram, decode_stream, encode_datagram, encode_stream
from protocol.config import SECOND, ProtocolConfig
from protocol.effects import Effect
from protocol.envelope import Opened, Unproven
from protocol.errors import DropReason
from protocol.events import DeadlineReached, StreamFailed, StreamFailure, StreamReceived
from protocol.identity import NodeId
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Ping,
    PingRequest,
    StreamMessage,
    StreamProbe,
)
from tests.helpers.nodes import Insider, Mesh, Parcel, drops_in

STEP = SECOND // 20


class Tap:
    """An insider in the place of a machine."""

    def __init__(self, mesh: Mesh, index: int) -> None:
        mesh.machines[index].node = None
        self.mesh = mesh
        self.insider = Insider(mesh, index)

    @property
    def id(self) -> NodeId:
        """Its key."""
        return self.insider.crypto.node_id

    def introduce(self, *to: int) -> None:
        """Prove our address to machines, and let them prove theirs."""
        for index in to:
            self.insider.tell(index, encode_datagram(Gossip()), self.insider.alive(50).wire)
        self.mesh.settle()
        for index in to:
            self.say(index, Ping(0, None))
        self.take()

    def take(self) -> list[tuple[int, DatagramMessage]]:
        """What has been sent here: (from, message); unproven senders are challenged."""
        return [(sender, message) for sender, message, _ in self.take_all()]

    def take_all(self) -> list[tuple[int, DatagramMessage, list[bytes]]]:
        """The same with what rides along."""
        found: list[tuple[int, DatagramMessage, list[bytes]]] = []
        mine = [p for p in self.mesh.post if p.to == self.insider.address]
        self.mesh.post = [p for p in self.mesh.post if p.to != self.insider.address]
        for parcel in mine:
            found += self._read(parcel)
        return found

    def _read(self, parcel: Parcel) -> list[tuple[int, DatagramMessage, list[bytes]]]:
        sender = next(m for m in self.mesh.machines if m.address == parcel.source)
        received = self.insider.envelope.open(parcel.data, parcel.source, sender.id)
        if isinstance(received, Unproven):
            challenge = Parcel(self.insider.address, parcel.source, received.challenge)
            self.mesh.hand_over(challenge)
            return self.take_all()
        if isinstance(received, Opened):
            return [(sender.index, *decode_datagram(received.payload))]
        return []

    def pings(self, sender: int) -> list[Ping]:
        """Of what has been sent here by one machine."""
        return [m for s, m in self.take() if s == sender and isinstance(m, Ping)]

    def answer(self, sender: int) -> list[DatagramMessage]:
        """Ack every ping of one machine for itself; returns whatever else it sent."""
        others: list[DatagramMessage] = []
        for message in [m for s, m in self.take() if s == sender]:
            if isinstance(message, Ping) and message.origin is None:
                self.say(sender, Ack(message.sequence, None))
            else:
                others.append(message)
        return others

    def say(self, to: int, message: DatagramMessage) -> list[DropReason]:
        """Send a message; returns what was refused."""
        return drops_in(self.insider.tell(to, encode_datagram(message)))

    def take_streams(self) -> list[tuple[int, StreamMessage]]:
        """What was asked of us by stream: (by whom, message)."""
        mine = [r for r in self.mesh.requests if r.peer == self.id]
        self.mesh.requests = [r for r in self.mesh.requests if r.peer != self.id]
        return [(r.opener, decode_stream(r.data)) for r in mine]

    def say_on_stream(self, to: int, message: StreamMessage) -> list[DropReason]:
        """Answer a stream that a machine opened to us; returns what was refused."""
        event = StreamReceived(0, self.id, encode_stream(message), self.mesh.wall_s)
        return drops_in(self.mesh.give(to, event))

    def fail_stream(self, to: int, reason: StreamFailure) -> list[Effect]:
        """A machine's stream to us comes to nothing."""
        return self.mesh.give(to, StreamFailed(self.id, reason))


def tapped(size: int, *taps: int, protocol: ProtocolConfig | None = None) -> tuple[Mesh, list[Tap]]:
    """A mesh that knows all its members alive; those at `taps` are ours."""
    mesh = Mesh(size, protocol=protocol).start_all()
    made = [Tap(mesh, index) for index in taps]
    for tap in made:
        tap.introduce(*[i for i in range(size) if i not in taps])
        mesh.settle()
    return mesh, made


def run(mesh: Mesh, duration: int) -> None:
    """Let time pass in small steps. What is sent to taps stays under way, of streams the probes."""
    for _ in range(duration // STEP):
        mesh.now += STEP
        for machine in mesh.machines:
            while machine.node is not None and machine.node.deadline <= mesh.now:
                mesh.give(machine.index, DeadlineReached())
        _deliver(mesh)


def _deliver(mesh: Mesh) -> None:
    taps = [m for m in mesh.machines if m.node is None]
    addresses, ids = [m.address for m in taps], [m.id for m in taps]
    kept: list[Parcel] = []
    while mesh.post:
        parcel = mesh.post.pop(0)
        if parcel.to in addresses:
            kept.append(parcel)
        else:
            mesh.hand_over(parcel)
    mesh.post = kept
    requests, mesh.requests = mesh.requests, []
    for request in requests:
        is_probe = isinstance(decode_stream(request.data), StreamProbe)
        if is_probe and request.peer in ids:
            mesh.requests.append(request)
        elif is_probe:
            mesh.connect(request)


def until_asked(mesh: Mesh, target: Tap, *helpers: Tap) -> PingRequest:
    """Let node 0 find the target silent and ask the helpers."""
    for _ in range(200):
        run(mesh, STEP)
        for helper in helpers:
            for message in helper.answer(0):
                if isinstance(message, PingRequest) and message.target == target.id:
                    for other in helpers:
                        other.answer(0)
                    return message
    raise AssertionError("no helper was asked")


def to_the_end(mesh: Mesh, request: PingRequest, *helpers: Tap) -> None:
    """Until the running probe has its verdict."""
    while (probe := mesh[0]._prober._probe) is not None and probe.sequence == request.sequence:
        run(mesh, STEP)
    for helper in helpers:
        helper.answer(0)


def proof_of(mesh: Mesh, target: Tap, prober: NodeId, sequence: int) -> bytes:
    """What a target signs for a probe."""
    text = b"meshd ack 1     " + mesh.authorities.mesh + prober + sequence.to_bytes(8, "big")
    return target.insider.crypto.sign(text)
