"""The one place for the framing of one forwarded request on a reliable stream; pure.

    asker                                    server
      Ask(id, deadline, body)     ->
                                  <-          Accept(body)      or  Refuse(code, message, load)
                                  <-          Data(body) ...
                                  <-          End(body)         or  Fail(code, message)
                                  <-          Heartbeat         (at any time before those, if the
                                                                 Ask wants it; it says what the
                                                                 request waits for)
      Cancel                      ->                            (at any time after Ask)

Bodies are opaque here: the protocol carries requests, it does not know what they ask for. The two
`Asker` and `Server` objects hold the order of frames; anything out of order is refused.
"""

import dataclasses
import enum
from typing import Final

from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.fields import Fields, pack, unpack_fields
from protocol.messages import Load
from protocol.outlook import NOTHING, Outlook, take_outlook
from protocol.outlook import to_fields as outlook_fields
from protocol.requester import ANYBODY, Requester, take_requester, to_fields

REQUEST_BYTES_MAX: Final = 16 * 2**20
"""An Ask with its body."""
ANSWER_BYTES_MAX: Final = 4 * 2**20
"""Any single frame of the server."""
FRAME_ARRAYS_MAX: Final = 16
FRAME_ITEMS_MAX: Final = 64
"""A frame is one short array, and a load in it; a later version may add some."""
DEADLINE_MS_MAX: Final = 24 * 3600 * 1000
_TEXT_CHARS_MAX: Final = 1_000
_COUNT_MAX: Final = 2**31


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """Run this, within `deadline_ms` from now."""

    request_id: str
    """The same in every attempt at one request."""
    deadline_ms: int
    body: bytes
    heartbeat_ms: int = 0
    """Be silent for no longer than this; 0: for as long as it takes. A version that knows no
    heartbeats sends none."""
    requester: Requester = ANYBODY
    """Who is behind it; an earlier version tells nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accept:
    """It runs; `body` describes how it began."""

    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Refuse:
    """It does not run, and nothing was done."""

    code: str
    message: str
    retry_after_ms: int
    load: Load


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """A part of the answer."""

    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server lives, and has nothing else to say: the request waits, or is worked at."""

    outlook: Outlook = NOTHING
    """What it waits for; an earlier version tells nothing, and reads none of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The answer is whole."""

    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """The answer will not become whole."""

    code: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """The asker does not want it any more."""


Frame = Ask | Accept | Refuse | Data | Heartbeat | End | Fail | Cancel


class _Type(enum.IntEnum):
    ASK = 1
    ACCEPT = 2
    REFUSE = 3
    DATA = 4
    END = 5
    FAIL = 6
    CANCEL = 7
    HEARTBEAT = 8


def encode_frame(frame: Frame) -> bytes:
    """One frame's bytes, without the length that the stream puts before them."""
    match frame:
        case Ask():
            told = (to_fields(frame.requester),) if frame.requester != ANYBODY else ()
            ask = (frame.request_id, frame.deadline_ms, frame.body, frame.heartbeat_ms, *told)
            return pack((_Type.ASK, *ask))
        case Accept():
            return pack((_Type.ACCEPT, frame.body))
        case Refuse():
            load = dataclasses.astuple(frame.load)
            return pack((_Type.REFUSE, frame.code, frame.message, frame.retry_after_ms, load))
        case Data():
            return pack((_Type.DATA, frame.body))
        case End():
            return pack((_Type.END, frame.body))
        case Fail():
            return pack((_Type.FAIL, frame.code, frame.message))
        case Heartbeat():
            return pack((_Type.HEARTBEAT, *outlook_fields(frame.outlook)))
        case _:
            return pack((_Type.CANCEL,))


def decode_frame(data: bytes) -> Frame:
    """The inverse of `encode_frame`. Raises Refused(MALFORMED)."""
    fields = unpack_fields(data, FRAME_ARRAYS_MAX, FRAME_ITEMS_MAX)
    match fields.take_int(0, 255):
        case _Type.ASK:
            request_id = fields.take_text(64)
            deadline_ms = fields.take_int(0, DEADLINE_MS_MAX)
            body = fields.take_blob(REQUEST_BYTES_MAX)
            heartbeat_ms = fields.take_int(0, DEADLINE_MS_MAX) if fields.has_more else 0
            requester = take_requester(fields.take()) if fields.has_more else ANYBODY
            return Ask(request_id, deadline_ms, body, heartbeat_ms, requester)
        case _Type.ACCEPT:
            return Accept(fields.take_blob(ANSWER_BYTES_MAX))
        case _Type.REFUSE:
            code, message = fields.take_text(64), fields.take_text(_TEXT_CHARS_MAX)
            retry_after_ms = fields.take_int(0, DEADLINE_MS_MAX)
            return Refuse(code, message, retry_after_ms, _take_load(Fields(fields.take())))
        case _Type.DATA:
            return Data(fields.take_blob(ANSWER_BYTES_MAX))
        case _Type.END:
            return End(fields.take_blob(ANSWER_BYTES_MAX))
        case _Type.FAIL:
            return Fail(fields.take_text(64), fields.take_text(_TEXT_CHARS_MAX))
        case _Type.CANCEL:
            return Cancel()
        case _Type.HEARTBEAT:
            return Heartbeat(take_outlook(fields))
        case _:
            raise Refused(DropReason.MALFORMED, "unknown frame")


def _take_load(fields: Fields) -> Load:
    return Load(
        fields.take_int(0, _COUNT_MAX),
        fields.take_int(0, _COUNT_MAX),
        fields.take_int(0, _COUNT_MAX),
    )


class _Phase(enum.Enum):
    ASKED = enum.auto()
    RUNNING = enum.auto()
    OVER = enum.auto()


class Asker:
    """The asking end of one request: knows which frame may come next."""

    def __init__(self) -> None:
        self._phase = _Phase.ASKED

    @property
    def is_over(self) -> bool:
        """Whether the server has said its last; only then may the stream carry another request."""
        return self._phase is _Phase.OVER

    def receive(self, data: bytes) -> Accept | Refuse | Data | Heartbeat | End | Fail:
        """Read the server's next frame. Raises Refused: MALFORMED, UNEXPECTED."""
        frame = decode_frame(data)
        match frame, self._phase:
            case Accept(), _Phase.ASKED:
                self._phase = _Phase.RUNNING
                return frame
            case Refuse(), _Phase.ASKED:
                self._phase = _Phase.OVER
                return frame
            case Data(), _Phase.RUNNING:
                return frame
            case Heartbeat(), _Phase.ASKED | _Phase.RUNNING:
                return frame
            case ((End() | Fail()), _Phase.RUNNING):
                self._phase = _Phase.OVER
                return frame
            case _:
                raise Refused(DropReason.UNEXPECTED, type(frame).__name__)


class Server:
    """The serving end of one request: knows which frame may be sent next."""

    def __init__(self) -> None:
        self._phase = _Phase.ASKED

    def send(self, frame: Accept | Refuse | Data | Heartbeat | End | Fail) -> bytes:
        """The bytes of our next frame. Raises LocalProtocolError when it is not its turn."""
        match frame, self._phase:
            case Accept(), _Phase.ASKED:
                self._phase = _Phase.RUNNING
            case Refuse(), _Phase.ASKED:
                self._phase = _Phase.OVER
            case Data(), _Phase.RUNNING:
                pass
            case Heartbeat(), _Phase.ASKED | _Phase.RUNNING:
                pass
            case ((End() | Fail()), _Phase.RUNNING):
                self._phase = _Phase.OVER
            case _:
                raise LocalProtocolError(f"{type(frame).__name__} is not due")
        return encode_frame(frame)
