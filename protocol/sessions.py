"""The one place for what a node remembers of its sealed traffic with each peer, and of how many.

The table is bounded: the least recently used session is forgotten. A new one with that peer begins
with counters and an epoch above those of all that were forgotten. So no nonce is used twice and no
recording is read, at the price of meeting anew.
"""

import dataclasses
from typing import Final

from protocol.identity import Address, NodeId

SESSIONS_MAX: Final = 4_096
WINDOW_BITS: Final = 64
TOKEN_BYTES: Final = 8
NO_TOKEN: Final = bytes(TOKEN_BYTES)
TRIED_MAX: Final = 8
"""Datagrams to unproven addresses that are remembered for one peer."""


@dataclasses.dataclass(slots=True)
class Session:
    """What one node remembers of its sealed traffic with one peer."""

    pair_key: bytes
    counter: int = 0
    """Counter of our last datagram to this peer; never repeats under one boot of ours."""
    token_theirs: bytes = NO_TOKEN
    """What the peer wants to see in our datagrams; zeros: not told yet."""
    boot_theirs: int = 0
    """The boot whose datagrams count; 0: none yet."""
    is_unheard: bool = False
    """It has told its token, and nothing authentic has come since: it may lack ours."""
    heard_at: int = 0
    """Our own counter when the peer last proved its boot."""
    epoch: int = 0
    """How often the peer came back with a lower boot; tokens of another epoch are void."""
    window_top: int = 0
    window: int = 0
    address: Address | None = None
    """Where the peer last proved to be."""
    sealing: tuple[int, bytes, bytes] = (0, b"", b"")
    """(version, token, key) of the last sealing, to derive each key once."""
    opening: tuple[int, int, bytes, bytes] = (0, 0, b"", b"")
    """(version, boot, token, key) of the last opening."""
    tried: dict[int, Address] | None = None
    """Where our last datagrams went that did not go to `address`, by their counter."""
    minted: tuple[Address, int, bytes] | None = None
    """(source, epoch, token) as last wanted of the peer, to derive each token once."""
    unread: bytes | None = None
    """The last payload that was sealed without a token and that nobody says again by itself: the
    peer will not have read it."""

    def is_replay(self, boot: int, counter: int) -> bool:
        """Whether this counter was seen, or is too old to tell."""
        if boot != self.boot_theirs or counter > self.window_top:
            return False
        age = self.window_top - counter
        return age >= WINDOW_BITS or bool(self.window >> age & 1)

    def note(self, boot: int, counter: int) -> None:
        """Remember an authenticated counter."""
        if boot != self.boot_theirs:
            self.boot_theirs, self.window_top, self.window = boot, counter, 1
        elif counter > self.window_top:
            shift = min(counter - self.window_top, WINDOW_BITS)
            self.window = (self.window << shift | 1) & (2**WINDOW_BITS - 1)
            self.window_top = counter
        else:
            self.window |= 1 << (self.window_top - counter)

    def note_tried(self, to: Address) -> None:
        """Remember where the datagram of the present counter goes."""
        if self.tried is None:
            self.tried = {}
        self.tried[self.counter] = to
        if len(self.tried) > TRIED_MAX:
            del self.tried[next(iter(self.tried))]


class Sessions:
    """The sessions of one node, by peer."""

    __slots__ = ("_by_peer", "_first_counter", "_max", "first_epoch")

    def __init__(self, sessions_max: int = SESSIONS_MAX) -> None:
        self._max = sessions_max
        self._by_peer: dict[NodeId, Session] = {}
        """The least recently used first."""
        self._first_counter = 0
        self.first_epoch = 0
        """That of a new session."""

    def __len__(self) -> int:
        return len(self._by_peer)

    def find(self, peer: NodeId) -> Session | None:
        """What is remembered of a peer."""
        return self._by_peer.get(peer)

    def make(self, peer: NodeId, pair_key: bytes) -> Session:
        """Begin with a peer that is not remembered."""
        if len(self._by_peer) >= self._max:
            self.forget(next(iter(self._by_peer)))
        session = Session(pair_key, counter=self._first_counter, epoch=self.first_epoch)
        self._by_peer[peer] = session
        return session

    def note_use(self, peer: NodeId) -> None:
        """Something was sealed for a peer, or an authentic datagram of it was read."""
        self._by_peer[peer] = self._by_peer.pop(peer)

    def forget(self, peer: NodeId) -> None:
        """Forget a peer. What is said to it later goes under counters that were never used and that
        no old challenge echoes; what it said before lacks the token of the new epoch.
        """
        session = self._by_peer.pop(peer, None)
        if session is None:
            return
        self._first_counter = max(self._first_counter, session.counter + WINDOW_BITS)
        self.first_epoch = max(self.first_epoch, session.epoch + 1)
