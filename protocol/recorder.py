"""The one place that writes down one node's run while it happens.

The recorder stands on both sides of a node: it gives the events, and it notes what the node's keys
answer, because a replay has no keys (`recording.py` says what is written, and what never is). What
the keys are asked between events is not noted: only `Node.join_state` asks any then.
"""

from collections.abc import Callable

from protocol.assembly import NodeConfig
from protocol.crypto import Crypto
from protocol.effects import Effect
from protocol.events import Event
from protocol.identity import NodeId
from protocol.node import Node
from protocol.recording import (
    Answer,
    Beginning,
    Happened,
    Outcome,
    Questions,
    encode_line,
)


class Recorder:
    """Writes lines; `write` is given each, with its end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._keys: _NotedCrypto | None = None

    def begin(
        self, config: NodeConfig, crypto: Crypto, random_seed: int, *, meshd: str, python: str
    ) -> Crypto:
        """A node is about to be made of all this; returns the Crypto that it must get instead."""
        beginning = Beginning(meshd, python, crypto.node_id, random_seed, config)
        self._write(encode_line(beginning))
        self._keys = _NotedCrypto(crypto)
        return self._keys

    def handle(self, node: Node, event: Event, now: int) -> list[Effect]:
        """As `node.handle`. The event is written before it is handled: one that breaks the node,
        or that it never comes back from, is the one that is wanted most.
        """
        assert self._keys is not None  # a node is made before anything happens to it
        self._write(encode_line(Happened(event, now)))
        notes = self._keys.notes = Notes()
        try:
            effects = node.handle(event, now)
        except Exception as error:
            self._write(encode_line(notes.failure(error)))
            raise
        finally:
            self._keys.notes = None
        self._write(encode_line(notes.outcome(effects, node.deadline)))
        return effects


class Notes:
    """What a node's keys were asked, and answered, during one event."""

    def __init__(self) -> None:
        self.questions = Questions()
        self.answers: list[Answer] = []

    def outcome(self, effects: list[Effect], deadline: int) -> Outcome:
        """What came of the event."""
        kinds = tuple(type(effect).__name__ for effect in effects)
        return Outcome(self.questions.check(effects, deadline), kinds, tuple(self.answers))

    def failure(self, error: Exception) -> Outcome:
        """The event broke the node."""
        check = self.questions.check((), 0)
        return Outcome(check, (), tuple(self.answers), type(error).__name__)


class _NotedCrypto:
    """The node's own Crypto, whose answers are noted where a replay could not give them."""

    def __init__(self, crypto: Crypto) -> None:
        self._crypto = crypto
        self.notes: Notes | None = None
        """None between events, and when nothing is recorded any more."""

    def _note(self, question: str, answer: bytes | bool | None, *parts: bytes) -> None:
        if self.notes is not None:
            self.notes.questions.note(question, *parts)
            self.notes.answers.append((question, answer))

    @property
    def node_id(self) -> NodeId:
        """See Crypto."""
        return self._crypto.node_id

    def sign(self, data: bytes) -> bytes:
        """See Crypto."""
        signature = self._crypto.sign(data)
        self._note("sign", signature, data)
        return signature

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """See Crypto. Everybody can check it, so the answer is not noted."""
        return self._crypto.verify(key, signature, data)

    def pair_key(self, peer: NodeId) -> bytes | None:
        """See Crypto. Only whether there is one is noted: it would open all traffic with `peer`."""
        key = self._crypto.pair_key(peer)
        self._note("pair_key", key is not None, peer)
        return key

    def seal(self, key: bytes, nonce: bytes, plain: bytes) -> bytes:
        """See Crypto."""
        sealed = self._crypto.seal(key, nonce, plain)
        self._note("seal", sealed, nonce, plain)
        return sealed

    def open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
        """See Crypto."""
        opened = self._crypto.open(key, nonce, sealed)
        self._note("open", opened, nonce, sealed)
        return opened

    def derive_key(self, secret: bytes, data: bytes, purpose: bytes) -> bytes:
        """See Crypto. The answer is never noted: keys stay in the process."""
        if self.notes is not None:
            self.notes.questions.note("derive_key", data, purpose)
        return self._crypto.derive_key(secret, data, purpose)

    def mac(self, secret: bytes, data: bytes, size: int, purpose: bytes) -> bytes:
        """See Crypto."""
        code = self._crypto.mac(secret, data, size, purpose)
        self._note("mac", code, data, purpose)
        return code
