"""The one place through which everything leaves a node: it collects the effects of one event.

A datagram to a member is message plus riders, sealed for that member, at its proven address or,
before it has proven one, at the addresses that it stated.
"""

from collections.abc import Sequence
from typing import Final

from protocol.codec import encode_datagram, encode_rider, encode_stream
from protocol.config import ProtocolConfig
from protocol.dissemination import Dissemination
from protocol.effects import DatagramDropped, Effect, OpenStream, SendDatagram
from protocol.envelope import PAYLOAD_BYTES_MAX, Envelope
from protocol.errors import DropReason
from protocol.identity import Address, NodeId
from protocol.members import Members, State
from protocol.messages import (
    Ack,
    DatagramMessage,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    RelayedAck,
    StreamMessage,
)
from protocol.records import Record
from protocol.statements import ADDRESSES_MAX, Statement
from protocol.versions import VERSIONS, common_version

KINDS: Final = {
    Ping: "ping",
    Ack: "ack",
    PingRequest: "ping_req",
    RelayedAck: "relayed_ack",
    Nack: "nack",
    Gossip: "gossip",
}
"""What statistics call a message."""


class Outbox:
    """Seals, fills and addresses what the other parts of a node want sent."""

    def __init__(
        self,
        config: ProtocolConfig,
        own: NodeId,
        envelope: Envelope,
        members: Members,
        rumours: Dissemination,
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        self._config = config
        self._own = own
        self._versions = versions
        self._envelope = envelope
        self._members = members
        self._rumours = rumours
        self._effects: list[Effect] = []
        self._hints: dict[NodeId, Address] = {}
        self._attempts: dict[NodeId, int] = {}
        self._reachable: tuple[int, list[NodeId]] = (-1, [])
        """As of which revision of the members, and who."""

    def add(self, effect: Effect) -> None:
        """Ask the world for something."""
        self._effects.append(effect)

    def drain(self) -> list[Effect]:
        """Everything since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def drop(self, reason: DropReason, source: Address | NodeId, detail: str = "") -> None:
        """Report a refusal."""
        self._effects.append(DatagramDropped(reason, source, detail))

    def hint(self, node: NodeId, address: Address) -> None:
        """Somebody says that `node` is there; tried beside what the node itself states."""
        self._hints[node] = address

    def addresses(self, node: NodeId) -> tuple[Address, ...]:
        """Where to try a member, best first: proven, stated, hinted."""
        alive = self._members.last_known(node)
        proven = self._envelope.proven_address(node)
        hinted = self._hints.get(node)
        found: dict[Address, None] = {}
        if proven is not None:
            found[proven] = None
        if hinted is not None and self._members.state(node) in (None, State.DEAD, State.LEFT):
            found[hinted] = None
        for address in alive.addresses if alive is not None else ():
            found[address] = None
        if hinted is not None:
            found[hinted] = None
        return tuple(found)[: ADDRESSES_MAX + 2]

    def version_for(self, node: NodeId) -> int | None:
        """The protocol version to use with a member; None when there is no common one."""
        alive = self._members.last_known(node)
        return (
            self._versions[0] if alive is None else common_version(alive.versions, self._versions)
        )

    def reachable(self) -> Sequence[NodeId]:
        """All other present members that speak a version of ours; never changed afterwards."""
        revision, found = self._reachable
        if revision != self._members.revision:
            found = [
                node
                for node in self._members.present()
                if node != self._own and self.version_for(node) is not None
            ]
            self._reachable = (self._members.revision, found)
        return found

    def send(
        self,
        to: NodeId,
        message: DatagramMessage,
        first: Statement | Record | None = None,
        *,
        is_repeated: bool = False,
    ) -> None:
        """A datagram to a member, filled up with rumours; `first` rides before them.

        Before the peer has told its token it reads nothing: then no rumour is wasted on it. To an
        address that it has stated and not proven only bare messages go: it may be a stranger's.
        When it has told its token, a ping tells it ours, so that it need not ask in turn.

        `is_repeated`: the caller says it again itself when the peer has told its token.
        """
        way = self._way(to)
        if way is None:
            return
        version, address = way
        if isinstance(message, Ping):
            message.token = self._envelope.token_due(to, address)
        payload = encode_datagram(message)
        if first is not None:
            payload += encode_rider(first.wire)
        self._seal(to, payload, KINDS[type(message)], version, address, is_repeated=is_repeated)

    def resend(self, to: NodeId, unread: bytes) -> None:
        """What a peer could not read before it told its token, now with rumours."""
        way = self._way(to)
        if way is not None:
            self._seal(to, unread, "resend", *way)

    def forget_address(self, node: NodeId) -> None:
        """A member states new addresses: the one that it proved may be an old one."""
        self._envelope.forget_address(node)

    def forget(self, node: NodeId) -> None:
        """It is no member any more: nothing that it said or was told is of use."""
        self._envelope.forget(node)
        self._hints.pop(node, None)
        self._attempts.pop(node, None)

    def _seal(
        self,
        to: NodeId,
        payload: bytes,
        kind: str,
        version: int,
        address: Address,
        *,
        is_repeated: bool = False,
    ) -> None:
        if self._rumours and self._envelope.is_read_at(to, address):
            room = PAYLOAD_BYTES_MAX - len(payload)
            payload += self._rumours.fill(room, self._members.present_count)
        data = self._envelope.seal(to, payload, version, to=address, is_repeated=is_repeated)
        if data is not None:
            self._effects.append(SendDatagram(data, address, kind))

    def _way(self, to: NodeId) -> tuple[int, Address] | None:
        """In which version, and where."""
        version = self.version_for(to)
        if version is None:
            return None
        address = self._pick(to)
        return None if address is None else (version, address)

    def _pick(self, to: NodeId) -> Address | None:
        proven = self._envelope.proven_address(to)
        if proven is not None and self._members.is_present(to):
            return proven
        choices = self.addresses(to)
        if len(choices) < 2:
            return choices[0] if choices else None
        # Nothing is proven: take turns, so that one dead interface does not hide a member.
        turn = self._attempts.get(to, 0)
        self._attempts[to] = turn + 1
        return choices[turn % len(choices)]

    def arrived(self, sender: NodeId) -> None:
        """An authentic datagram came: taking turns may end."""
        self._attempts.pop(sender, None)

    def open_stream(self, to: NodeId, message: StreamMessage) -> bool:
        """Ask for an exchange over a stream; False when no address is known."""
        addresses = self.addresses(to)
        if not addresses:
            return False
        self._effects.append(OpenStream(to, addresses, encode_stream(message)))
        return True
