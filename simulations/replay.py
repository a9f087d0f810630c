"""The one place for repeating what a real node went through, from its recording.

The very code of `protocol/` gets the same events at the same times. Its keys are not in a
recording: what they answered is (`protocol/recording.py`), so whoever has the file can replay it,
and can neither sign nor open anything.
"""

import dataclasses
import random
from collections import deque
from collections.abc import Iterator
from typing import IO, Final

from protocol.crypto import SEAL_KEY_BYTES, SodiumCrypto
from protocol.effects import Effect
from protocol.errors import BadRecording, LocalProtocolError
from protocol.events import Event
from protocol.identity import NodeId
from protocol.node import Node
from protocol.recording import (
    LINE_BYTES_MAX,
    Answer,
    Beginning,
    Happened,
    Line,
    Outcome,
    Questions,
    decode_line,
)

_HEAD: Final = b'{"meshd_recording":'
_KINDS_SHOWN: Final = 6
_STAND_IN: Final = bytes(SEAL_KEY_BYTES)
"""In the place of every key."""
_VERIFIER: Final = SodiumCrypto(bytes(32))


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One event that was repeated, with the same outcome."""

    number: int
    """Of the event in the recording, from 1."""
    since_ns: int
    """Since the first event of this start."""
    event: Event
    effects: tuple[Effect, ...]
    raised: str | None
    """The exception that the event brought about instead, now as then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """The first event whose outcome is not the recorded one."""

    number: int
    line: int
    since_ns: int
    event: Event
    recorded: tuple[str, ...]
    """Types of the recorded effects; or what was raised."""
    replayed: tuple[str, ...]
    effects: tuple[Effect, ...]
    why: str

    @property
    def step(self) -> Step:
        """The event and what comes of it now."""
        return Step(self.number, self.since_ns, self.event, self.effects, None)

    def __str__(self) -> str:
        return (
            f"event {self.number}, {type(self.event).__name__} at {self.since_ns / 1e9:.3f} s "
            f"(line {self.line}), {self.why}: recorded {_shown(self.recorded)}, now "
            f"{_shown(self.replayed)}"
        )


class Replay:
    """A recording, repeated step by step; what it has come to so far is in its attributes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._line = 0
        self.beginning: Beginning | None = None
        """Of the present start."""
        self.starts = 0
        self.events = 0
        self.effects = 0
        self.span_ns = 0
        """From the first event of the present start to the last."""
        self.cut: str | None = None
        """How the recording ends, if not behind a whole outcome."""
        self.difference: Difference | None = None
        """Set when the outcome of an event is another one; then there are no more steps."""

    def steps(self) -> Iterator[Step]:
        """Repeat events as long as the recorded outcomes come of them.

        Raises BadRecording, with the number of the line, for what is no recording.
        """
        node: _ReplayedNode | None = None
        waiting: tuple[Happened, int] | None = None
        while (line := self._next()) is not None:
            if waiting is not None:
                if not isinstance(line, Outcome):
                    raise self._bad("an outcome is missing before it")
                assert node is not None
                step = self._repeat(node, *waiting, line)
                waiting = None
                if step is None:
                    return
                yield step
            elif isinstance(line, Beginning):
                node = self._begin(line)
            elif isinstance(line, Happened):
                if node is None:
                    raise self._bad("a recording starts with its beginning")
                waiting = line, self._line
            else:
                raise self._bad("an outcome without its event")
        if waiting is not None and self.cut is None:
            self.cut = f"before the outcome of its last event, {type(waiting[0].event).__name__}"
        if self.starts == 0:
            raise BadRecording(
                "it is empty" if self._line == 0 else "it is cut before its first event"
            )

    def _next(self) -> Line | None:
        """The next whole line; None at the end, or where the recording was cut."""
        text = self._file.readline(LINE_BYTES_MAX + 1)
        if not text:
            return None
        self._line += 1
        if not text.endswith(b"\n"):
            if len(text) > LINE_BYTES_MAX:
                raise self._bad("this is too long for a recording")
            self.cut = "within a line"
            if self._line == 1 and not text.startswith(_HEAD[: len(text)]):
                raise self._bad("this is no line of a recording")
            return None
        try:
            return decode_line(text)
        except BadRecording as error:
            raise self._bad(str(error)) from error

    def _bad(self, why: str) -> BadRecording:
        return BadRecording(f"line {self._line}: {why}")

    def _begin(self, beginning: Beginning) -> "_ReplayedNode":
        self.beginning = beginning
        self.starts += 1
        try:
            return _ReplayedNode(beginning)
        except Exception as error:  # whatever it is made of, it is the file's fault
            raise self._bad(f"no node can be made of this: {_told(error)}") from error

    def _repeat(
        self, node: "_ReplayedNode", happened: Happened, line: int, outcome: Outcome
    ) -> Step | None:
        if node.now_ns is not None and happened.now < node.now_ns:
            raise BadRecording(f"line {line}: its time goes back")
        self.events += 1
        repeated = node.repeat(happened, outcome)
        since_ns = self.span_ns = happened.now - node.start_ns
        kinds = tuple(type(effect).__name__ for effect in repeated.effects)
        if repeated.raised is not None:
            kinds = (repeated.raised,)
        recorded = outcome.effects if outcome.raised is None else (outcome.raised,)
        why = repeated.why
        if why is None and (repeated.check != outcome.check or kinds != recorded):
            why = "other effects" if kinds != recorded else "effects or a deadline of other content"
        if why is not None:
            event, effects = happened.event, repeated.effects
            self.difference = Difference(
                self.events, line, since_ns, event, recorded, kinds, effects, why
            )
            return None
        self.effects += len(repeated.effects)
        return Step(self.events, since_ns, happened.event, repeated.effects, repeated.raised)


@dataclasses.dataclass(frozen=True, slots=True)
class _Repeated:
    check: str
    effects: tuple[Effect, ...] = ()
    raised: str | None = None
    why: str | None = None


class _ReplayedNode:
    """A real node, made of a recording's beginning."""

    def __init__(self, beginning: Beginning) -> None:
        self._keys = _RecalledCrypto(beginning.node)
        rng = random.Random(beginning.random_seed)  # noqa: S311  # the recorded node's own
        self._node = Node(beginning.config, self._keys, rng)
        self.start_ns = 0
        self.now_ns: int | None = None

    def repeat(self, happened: Happened, outcome: Outcome) -> _Repeated:
        """Give it one event, with the answers that its keys gave then."""
        if self.now_ns is None:
            self.start_ns = happened.now
        self.now_ns = happened.now
        self._keys.recall(outcome.answers)
        questions = self._keys.questions
        try:
            effects = tuple(self._node.handle(happened.event, happened.now))
        except _OtherQuestion as other:
            return _Repeated("", why=str(other))
        except Exception as error:  # noqa: BLE001  # a recording may be about just that
            return _Repeated(questions.check((), 0), raised=type(error).__name__)
        if left := self._keys.unasked():
            return _Repeated("", effects, why=f"its keys are not asked for {left}")
        return _Repeated(questions.check(effects, self._node.deadline), effects)


class _OtherQuestion(Exception):
    """The node asks its keys something that they were not asked at this place of the recording."""


class _RecalledCrypto:
    """See protocol.crypto.Crypto: answers what was answered when it was recorded."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._answers: deque[Answer] = deque()
        self.questions = Questions()

    def recall(self, answers: tuple[Answer, ...]) -> None:
        """Those of the next event."""
        self._answers = deque(answers)
        self.questions = Questions()

    def unasked(self) -> str | None:
        """What is recorded, and was not asked."""
        return self._answers[0][0] if self._answers else None

    def _answer(self, question: str, size: int | None, *parts: bytes) -> bytes | bool | None:
        """The recorded answer; `size`: how many bytes it must have."""
        self.questions.note(question, *parts)
        recorded, answer = self._answers.popleft() if self._answers else ("nothing", None)
        is_sized = size is None or (isinstance(answer, bytes) and len(answer) == size)
        if recorded != question or not is_sized:
            raise _OtherQuestion(f"its keys are asked for {question}, not for {recorded}")
        return answer

    def _bytes(self, question: str, size: int, *parts: bytes) -> bytes:
        answer = self._answer(question, size, *parts)
        assert isinstance(answer, bytes)
        return answer

    @property
    def node_id(self) -> NodeId:
        """The recorded node's."""
        return self._node_id

    def sign(self, data: bytes) -> bytes:
        """The recorded signature."""
        return self._bytes("sign", 64, data)

    def verify(self, key: bytes, signature: bytes, data: bytes) -> bool:
        """As always: that takes no secret."""
        return _VERIFIER.verify(key, signature, data)

    def pair_key(self, peer: NodeId) -> bytes | None:
        """A stand-in, if there was a key."""
        return _STAND_IN if self._answer("pair_key", None, peer) is True else None

    def seal(self, key: bytes, nonce: bytes, plain: bytes) -> bytes:
        """The recorded box."""
        del key
        return self._bytes("seal", len(plain) + 16, nonce, plain)

    def open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
        """The recorded text."""
        del key
        answer = self._answer("open", None, nonce, sealed)
        return answer if isinstance(answer, bytes) else None

    def derive_key(self, secret: bytes, data: bytes, purpose: bytes) -> bytes:
        """A stand-in."""
        del secret
        self.questions.note("derive_key", data, purpose)
        return _STAND_IN

    def mac(self, secret: bytes, data: bytes, size: int, purpose: bytes) -> bytes:
        """The recorded code."""
        del secret
        return self._bytes("mac", size, data, purpose)


def _told(error: Exception) -> str:
    if isinstance(error, LocalProtocolError | BadRecording):
        return str(error)[:200]
    return f"{type(error).__name__}: {error}"[:200]


def _shown(kinds: tuple[str, ...]) -> str:
    shown = ", ".join(kinds[:_KINDS_SHOWN]) or "nothing"
    more = len(kinds) - _KINDS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
