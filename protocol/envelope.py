"""The one place for the outside of a datagram: who sent it, that it is fresh, and its seal.

    sealed     version 1 | type 0 | mesh tag 4 | sender 8 | boot 8 | token 8 | counter 8 | box
    challenge  version 1 | type 1 | mesh tag 4 | sender 8 | boot 8 | echoed boot 8 |
               echoed counter 8 | token 8 | code 16

`sender` is a short id. `boot` is the sender's boot nonce: it rises with every start of that node
and ends in random bits. `token` is the receiver's boot nonce *as told to this sender at this
address*: a keyed hash under a secret of the receiver's boot. One token therefore proves two
things at once: the datagram was made for this boot of the receiver (old recordings die), and the
sender receives at the address it writes from (nothing is sent to an unproven address).

The box is sealed under a key from both node keys, both boot values and the direction; the counter
is its nonce. Every header byte goes into the key or the nonce, so all of it is authenticated.

A datagram of a member whose box opens but whose token is wrong or missing earns one challenge:
stateless, rate-limited, never longer than its cause (the shortest sealed datagram is padded to
that). It tells the token to use. Its code is keyed with the pair's secret, so only the true peer
can tell; a receiver that does not know the sender answers with a code of zeros, which only says
"introduce yourself on a stream". Who merely knows a member's short id provokes nothing.

Who was told a token tells its own in its next ping (`token_due`), so that the peer need not be
challenged in turn: what that ping says is authentic, fresh and for this boot.

Replays: per sender boot a 64-entry window of counters. A boot below the one that counts is a
recording, or the true peer with an older disk or a clock that was wrong. It is challenged too, with
a token of the next epoch, which no recording can hold; whoever answers with it lives, its boot
counts from then on, and all tokens of the epoch before are void.

What is remembered of each peer, and of how many: `sessions.py`.
"""

import dataclasses
import enum
import struct
from collections.abc import Callable
from typing import Final

from protocol.crypto import SEAL_NONCE_BYTES, SEAL_TAG_BYTES, Crypto
from protocol.errors import DropReason, Refused
from protocol.identity import (
    SHORT_ID_BYTES,
    Address,
    MeshId,
    NodeId,
    mesh_tag,
    short_id,
)
from protocol.sessions import NO_TOKEN, SESSIONS_MAX, WINDOW_BITS, Session, Sessions
from protocol.versions import VERSIONS

DATAGRAM_BYTES_MAX: Final = 1_200
_SEALED: Final = struct.Struct(">BB4s8sQ8sQ")
_CHALLENGE: Final = struct.Struct(">BB4s8sQQQ8s16s")
_UNKNOWN: Final = bytes(16)
CHALLENGE_BYTES: Final = _CHALLENGE.size
PAYLOAD_BYTES_MAX: Final = DATAGRAM_BYTES_MAX - _SEALED.size - SEAL_TAG_BYTES
PAYLOAD_BYTES_MIN: Final = CHALLENGE_BYTES - _SEALED.size - SEAL_TAG_BYTES
"""Shorter payloads are padded so that a challenge is never longer than its cause."""


class _Type(enum.IntEnum):
    SEALED = 0
    CHALLENGE = 1


@dataclasses.dataclass(slots=True)  # frozen, it would take four times as long
class Opened:
    """An authentic, fresh payload from a proven address."""

    sender: NodeId
    payload: bytes
    is_newest: bool = True
    """Whether nothing that the sender said later has come before it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A peer told the token to use: what was sent to it before was not read."""

    sender: NodeId
    unread: bytes | None
    """The payload to send again, if any that its sender does not say again by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unintroduced:
    """Somebody at this short id does not know us as a member. Not authenticated: a hint only."""

    sender: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class Unproven:
    """Refused, and this challenge is due to the datagram's source."""

    reason: DropReason
    sender: NodeId | None
    """The member that sealed it; None: somebody with an unknown short id."""
    challenge: bytes


Received = Opened | Told | Unintroduced | Unproven
Meet = Callable[[NodeId], tuple[Address, bytes] | None]


class Envelope:
    """All sealed traffic of one node."""

    def __init__(
        self,
        crypto: Crypto,
        mesh: MeshId,
        boot: int,
        secret: bytes,
        versions: tuple[int, int] = VERSIONS,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        """`boot`: above all boots this node had before. `secret`: 32 random bytes of this boot.

        `versions`: the lowest and the highest that may be read. `sessions_max`: so many peers are
        remembered.
        """
        self._versions = versions
        self._crypto = crypto
        self._tag = mesh_tag(mesh)
        self._mesh = mesh
        self._boot = boot
        self._secret = secret
        self._short = short_id(crypto.node_id)
        self._sessions = Sessions(sessions_max)
        self._meet: Meet | None = None

    def session(self, peer: NodeId) -> Session | None:
        """The session with a member, made on first use; None when its key is unusable."""
        return self._sessions.find(peer) or self._begin(peer)

    def _known(self, peer: NodeId) -> Session | None:
        """The session with a member that was met already."""
        session = self._sessions.find(peer)
        return self._begin(peer) if session is None and self._meet is not None else session

    def _begin(self, peer: NodeId) -> Session | None:
        pair_key = self._crypto.pair_key(peer)
        if pair_key is None:
            return None
        session = self._sessions.make(peer, pair_key)
        if self._meet is not None and (met := self._meet(peer)) is not None:
            session.address, session.token_theirs = met
        return session

    def begin_acquainted(self, meet: Meet) -> None:
        """From now on have met everybody before: a simulation that begins in the middle. `meet`
        tells where a peer is and what token it wants to see, None of one that is not there.
        """
        self._meet = meet

    def token_for(self, peer: NodeId, source: Address) -> bytes:
        """What `peer` has to show in datagrams from `source`."""
        session = self._sessions.find(peer)
        return self._token(peer, source, session.epoch if session else self._sessions.first_epoch)

    def token_due(self, peer: NodeId, to: Address) -> bytes | None:
        """What `peer`, which may not know it, has to show in datagrams from `to`; for what is
        sealed and sent there. None when it has been heard since it told its own.
        """
        session = self._known(peer)
        if session is None or not session.is_unheard:
            return None
        return self._mint(session, peer, to, session.epoch)

    def take_token(self, peer: NodeId, token: bytes) -> None:
        """The newest authentic datagram of `peer` says what it wants to see."""
        session = self._sessions.find(peer)
        if session is not None:
            session.token_theirs = token

    def is_read_at(self, peer: NodeId, address: Address) -> bool:
        """Whether `peer` has proven to be there, and told the token that it wants to see."""
        session = self._known(peer)
        if session is None or session.token_theirs == NO_TOKEN:
            return False
        return session.address == address

    def forget(self, peer: NodeId) -> None:
        """Who is no member any more has no session either."""
        self._sessions.forget(peer)

    def forget_address(self, peer: NodeId) -> None:
        """Trust no longer that `peer` is where it last proved to be."""
        session = self._known(peer)
        if session is not None:
            session.address = None

    def proven_address(self, peer: NodeId) -> Address | None:
        """Where `peer` last proved to be."""
        session = self._known(peer)
        return session.address if session is not None else None

    def seal(
        self,
        peer: NodeId,
        payload: bytes,
        version: int = VERSIONS[0],
        *,
        to: Address | None = None,
        is_repeated: bool = False,
    ) -> bytes | None:
        """A datagram to `peer`, at the address `to`, in a version that both speak; None when its
        key is unusable.

        Without a token the peer will not read it but tell one; the payload is safe all the same,
        and kept for `Told`, unless `is_repeated`: then who wants it sent says it again.
        """
        session = self.session(peer)
        if session is None:
            return None
        token = session.token_theirs
        if session.sealing[1] != token or session.sealing[0] != version:
            key = self._key(session, version, self._crypto.node_id, peer, self._boot, token)
            session.sealing = (version, token, key)
        if token == NO_TOKEN and not is_repeated:
            session.unread = payload
        session.counter += 1
        if to is not None and to != session.address:
            session.note_tried(to)
        self._sessions.note_use(peer)
        header = _SEALED.pack(
            version,
            _Type.SEALED,
            self._tag,
            self._short,
            self._boot,
            token,
            session.counter,
        )
        plain = payload.ljust(PAYLOAD_BYTES_MIN, b"\xc0")
        return header + self._crypto.seal(session.sealing[2], _nonce(session.counter), plain)

    def open(self, data: bytes, source: Address, sender: NodeId) -> Received:
        """Read what `sender` (resolved by the caller from `sender_of`) sent from `source`.

        Raises Refused: BAD_CHALLENGE, REPLAYED, BAD_SEAL, UNKNOWN_SENDER (bad key).
        """
        session = self.session(sender)
        if session is None:
            raise Refused(DropReason.UNKNOWN_SENDER)
        if data[1] == _Type.CHALLENGE:
            return self._take_challenge(data, source, sender, session)
        version, _, _, _, boot, token, counter = _SEALED.unpack_from(data)
        if session.is_replay(boot, counter):
            raise Refused(DropReason.REPLAYED)
        known_version, known_boot, known_token, key = session.opening
        is_new_key = token != known_token or boot != known_boot or version != known_version
        if is_new_key:
            key = self._key(session, version, sender, self._crypto.node_id, boot, token)
        payload = self._crypto.open(key, _nonce(counter), data[_SEALED.size :])
        if payload is None:
            raise Refused(DropReason.BAD_SEAL)
        # A lower boot is a recording, or a home with an older disk or another clock. Only who
        # lives can answer with a token that was never told before.
        is_older = boot < session.boot_theirs
        epoch = session.epoch + 1 if is_older else session.epoch
        wanted = self._mint(session, sender, source, epoch)
        if token != wanted:
            challenge = self._challenge(version, boot, counter, wanted, session)
            reason = DropReason.OLD_BOOT if is_older else DropReason.UNPROVEN
            return Unproven(reason, sender, challenge)
        self._sessions.note_use(sender)
        session.epoch = epoch
        if boot != session.boot_theirs and session.boot_theirs:
            session.token_theirs = NO_TOKEN  # its secret died with its old boot
        if is_new_key:
            session.opening = (version, boot, wanted, key)
        session.note(boot, counter)
        session.heard_at = session.counter
        session.is_unheard = False
        is_newest = counter == session.window_top
        if is_newest:
            session.address = source  # a late one from an earlier address moves nothing back
        return Opened(sender, payload, is_newest)

    def refuse_unknown(self, data: bytes, source: Address) -> Unproven:
        """The answer to a sealed datagram whose short id is no member's. Raises Refused."""
        if data[1] != _Type.SEALED:
            raise Refused(DropReason.UNKNOWN_SENDER)
        version, _, _, short, boot, _, counter = _SEALED.unpack_from(data)
        token = self._crypto.mac(self._secret, short + str(source).encode(), 8, b"meshd unknown")
        challenge = self._pack_challenge(version, boot, counter, token, _UNKNOWN)
        return Unproven(DropReason.UNKNOWN_SENDER, None, challenge)

    def sender_of(self, data: bytes) -> bytes:
        """The sender's short id, after the checks that need no look-up.

        Raises Refused: TOO_SHORT, TOO_LONG, BAD_VERSION, FOREIGN_MESH.
        """
        if len(data) < CHALLENGE_BYTES:
            raise Refused(DropReason.TOO_SHORT)
        if len(data) > DATAGRAM_BYTES_MAX:
            raise Refused(DropReason.TOO_LONG)
        lowest, highest = self._versions
        if not lowest <= data[0] <= highest or data[1] > _Type.CHALLENGE:
            raise Refused(DropReason.BAD_VERSION)
        if data[2:6] != self._tag:
            raise Refused(DropReason.FOREIGN_MESH)
        return data[6 : 6 + SHORT_ID_BYTES]

    def _take_challenge(
        self, data: bytes, source: Address, sender: NodeId, session: Session
    ) -> Received:
        if len(data) != CHALLENGE_BYTES:
            raise Refused(DropReason.BAD_CHALLENGE)
        _, _, _, _, boot, echoed_boot, echoed_counter, token, code = _CHALLENGE.unpack(data)
        oldest = max(1, session.counter - WINDOW_BITS + 1)
        recent = oldest <= echoed_counter <= session.counter
        if echoed_boot != self._boot or not recent:
            raise Refused(DropReason.BAD_CHALLENGE)
        if code == _UNKNOWN:
            return Unintroduced(sender)
        is_recorded = boot < session.boot_theirs and echoed_counter <= session.heard_at
        if is_recorded or code != self._code(session, sender, data[:-16]):
            raise Refused(DropReason.BAD_CHALLENGE)
        if token == session.token_theirs:
            raise Refused(DropReason.BAD_CHALLENGE)
        session.token_theirs = token
        session.is_unheard = True
        if session.tried is not None and session.tried.get(echoed_counter) == source:
            session.address = source  # it echoes what only who receives there has seen
        unread, session.unread = session.unread, None
        return Told(sender, unread)

    def _challenge(
        self, version: int, boot: int, counter: int, token: bytes, session: Session
    ) -> bytes:
        """In the version of its cause, which the other side speaks."""
        head = self._pack_challenge(version, boot, counter, token, _UNKNOWN)[:-16]
        return head + self._code(session, self._crypto.node_id, head)

    def _pack_challenge(
        self, version: int, boot: int, counter: int, token: bytes, code: bytes
    ) -> bytes:
        return _CHALLENGE.pack(
            version,
            _Type.CHALLENGE,
            self._tag,
            self._short,
            self._boot,
            boot,
            counter,
            token,
            code,
        )

    def _mint(self, session: Session, sender: NodeId, source: Address, epoch: int) -> bytes:
        minted = session.minted
        if minted is None or minted[1] != epoch or minted[0] != source:
            minted = session.minted = (source, epoch, self._token(sender, source, epoch))
        return minted[2]

    def _token(self, sender: NodeId, source: Address, epoch: int) -> bytes:
        text = sender + str(source).encode()
        if epoch:
            text += b" %d" % epoch
        return self._crypto.mac(self._secret, text, 8, b"meshd token")

    def _code(self, session: Session, teller: NodeId, head: bytes) -> bytes:
        return self._crypto.mac(session.pair_key, teller + head, 16, b"meshd challenge")

    def _key(
        self,
        session: Session,
        version: int,
        sender: NodeId,
        receiver: NodeId,
        boot: int,
        token: bytes,
    ) -> bytes:
        material = self._mesh + sender + receiver + boot.to_bytes(8, "big") + token
        material += bytes((version,))
        return self._crypto.derive_key(session.pair_key, material, b"meshd seal")


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(SEAL_NONCE_BYTES, "big")
