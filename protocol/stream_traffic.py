"""The one place where messages of gossip streams find the part of a node that they are for."""

from protocol.authority import Authority
from protocol.codec import decode_stream
from protocol.errors import DropReason, Refused
from protocol.events import StreamReceived
from protocol.identity import NodeId
from protocol.intake import Intake
from protocol.members import Members
from protocol.messages import (
    Difference,
    Digest,
    Join,
    JoinAnswer,
    PushPull,
    StreamAck,
    StreamProbe,
)
from protocol.outbox import Outbox
from protocol.probe_traffic import ProbeTraffic
from protocol.push_pull import PushPuller
from protocol.reconciliation import Reconciler


class StreamTraffic:
    """Reads what came on streams. Every peer has proven its key; not every one is a member."""

    def __init__(
        self,
        own: NodeId,
        authority: Authority,
        members: Members,
        intake: Intake,
        push_puller: PushPuller,
        reconciler: Reconciler,
        probes: ProbeTraffic,
        outbox: Outbox,
    ) -> None:
        self._own = own
        self._authority = authority
        self._members = members
        self._intake = intake
        self._push_puller = push_puller
        self._reconciler = reconciler
        self._probes = probes
        self._outbox = outbox

    def on_stream(self, event: StreamReceived, now: int, *, is_started: bool) -> None:
        """A message, or bytes that are none."""
        try:
            message = decode_stream(event.data)
        except Refused as refused:
            self._outbox.drop(refused.reason, event.peer, refused.detail)
            return
        match message:
            case PushPull():
                self._push_puller.on_push_pull(event.stream, event.peer, message, now)
            case Join():
                self._push_puller.on_join(event.stream, event.peer, message, event.wall_s)
            case Digest():
                self._reconciler.on_digest_message(event.stream, event.peer, message, now)
            case Difference():
                self._reconciler.on_difference(event.peer, message, now)
            case StreamProbe():
                if self._may_probe(event.peer, is_started=is_started):
                    self._on_probe(event.stream, event.peer, message, now)
            case StreamAck():
                if message.alive:
                    self._intake.take_all((message.alive,), event.peer, now)
                self._probes.on_stream_ack(event.peer, message)
            case JoinAnswer():
                self._on_turned_away(event.peer, message, now)

    def _may_probe(self, peer: NodeId, *, is_started: bool) -> bool:
        if self._authority.admission(peer) is not None and is_started:
            return True
        self._outbox.drop(DropReason.NOT_ADMITTED, peer, "stream probe")
        return False

    def _on_probe(self, stream: int, peer: NodeId, probe: StreamProbe, now: int) -> None:
        if probe.accusation:
            self._intake.take_all((probe.accusation,), peer, now)
        alive = self._members.alive_record(self._own)
        self._probes.on_stream_probe(stream, probe, alive.wire if alive is not None else b"")

    def _on_turned_away(self, peer: NodeId, answer: JoinAnswer, now: int) -> None:
        """We are no member in this one's eyes; its records say why, and we judge them ourselves."""
        if not self._reconciler.is_running(peer):
            self._outbox.drop(DropReason.UNEXPECTED, peer, "JoinAnswer")
            return
        self._intake.take_all(answer.records, peer, now)
        self._reconciler.give_up(peer, now)
