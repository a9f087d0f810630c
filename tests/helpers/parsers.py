"""The one place that lists every parser of bytes from outside, with inputs that it takes.

A parser takes any bytes and gives a value or raises its typed refusal; anything else that leaves it
is a bug. `tests/meshd/test_parsers.py` tries some near misses, `tests/benchmarks/parsers.py` many.
"""

import base64
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Final

import trio
from starlette.datastructures import Headers
from starlette.types import Message
from trio.testing import MemoryReceiveStream, MemorySendStream

from meshd import payloads
from meshd.frames import FrameStream, StreamBroken
from meshd.gateway.embedding_request import parse_embedding, parse_rerank
from meshd.gateway.errors import Refusal
from meshd.gateway.incoming import BodyBudget, Incoming
from meshd.gateway.limits import Limits
from meshd.gateway.openai_request import parse_chat
from meshd.payloads import BadPayload
from meshd.tasks.payloads import pack_call, pack_returned, unpack_call, unpack_returned
from meshd.trust import token
from meshd.trust.token import BadToken, Token, decode_token, encode_token
from protocol.codec import (
    BUCKETS,
    STREAM_BYTES_MAX,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_rider,
    encode_stream,
)
from protocol.crypto import SodiumCrypto
from protocol.envelope import Envelope
from protocol.errors import Refused
from protocol.exchange import (
    REQUEST_BYTES_MAX,
    Accept,
    Ask,
    Cancel,
    Data,
    End,
    Fail,
    Frame,
    Refuse,
    decode_frame,
    encode_frame,
)
from protocol.identity import Address, NodeId
from protocol.issuing import make_join_proof
from protocol.messages import (
    Ack,
    Difference,
    Digest,
    Entry,
    Gossip,
    Join,
    JoinAnswer,
    Load,
    Nack,
    Origin,
    Ping,
    PingRequest,
    PushPull,
    RelayedAck,
    StreamAck,
    StreamMessage,
    StreamProbe,
)
from protocol.records import Role, decode_record
from protocol.requester import Requester
from protocol.statements import decode_statement, make_accusation, make_alive, make_left, make_offer
from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest, Started, Tool, ToolCall
from runtimes.embedding import EmbedRequest, Vector
from runtimes.functions.call import FunctionCall, Returned
from runtimes.reply_form import ReplyForm
from tests.helpers.nodes import Authorities, seed_of

_ANNA, _BERT = (SodiumCrypto(seed_of("parsers", index)) for index in range(2))
_AUTHORITIES = Authorities("parsers")
_MESH = _AUTHORITIES.mesh
_HERE = Address("10.0.0.1", 7700)
_ID = NodeId(bytes(range(32)))
_LOAD = Load(1, 2, 3)
_INVITE_SEED = seed_of("parsers", "invite")
_INVITE = _AUTHORITIES.issue(_INVITE_SEED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """One parser of bytes from outside."""

    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    """What may leave it."""
    valid: tuple[bytes, ...]
    """What it takes."""
    bytes_max: int
    """The longest input that can reach it."""


def _statements() -> tuple[bytes, ...]:
    alive = make_alive(
        _ANNA, _MESH, 5, "anna", (_HERE, Address("fd00::1", 1)), "meshd/1", 7, (1, 2)
    )
    accusation = make_accusation(_ANNA, _MESH, _BERT.node_id, 5, is_dead=True, is_refused=True)
    offer = make_offer(_ANNA, _MESH, 5, "model/demo", payloads.pack_chunk(Chunk((1,), "x")))
    return alive.wire, accusation.wire, offer.wire, make_left(_ANNA, _MESH, 6).wire


def _records() -> tuple[bytes, ...]:
    invite, admission = _AUTHORITIES.admit(_BERT, role=Role.WORKER)
    return invite.wire, admission.wire, _AUTHORITIES.founding.wire


def _datagrams() -> tuple[bytes, ...]:
    riders = b"".join(map(encode_rider, (*_statements(), *_records()[:1])))
    messages = (
        Ping(1, _LOAD, Origin(_ID, 2), 2**63),
        Ack(1, None, bytes(64), 7, (1, -2, 3)),
        PingRequest(3, _ID),
        RelayedAck(3, _ID, bytes(64)),
        Nack(3, _ID, _statements()[1]),
        Gossip(),
    )
    return tuple(encode_datagram(message) + riders + b"\xc0" * 5 for message in messages)


def _streams() -> tuple[bytes, ...]:
    statements, records = _statements(), _records()
    sums = bytes(8 * BUCKETS)
    entries = tuple(Entry(bytes(8), state, 5, 2**60) for state in range(3))
    messages: tuple[StreamMessage, ...] = (
        PushPull(False, records, statements, (bytes(8),)),
        Join(_INVITE.wire, make_join_proof(_INVITE_SEED, _BERT, _MESH)),
        JoinAnswer("", records, statements),
        JoinAnswer("used_up", (), ()),
        Digest(sums, sums, records, statements[0]),
        Difference(5, entries, 9, (bytes(8),) * 3),
        StreamProbe(Origin(_ID, 2), statements[1]),
        StreamAck(Origin(_ID, 2), bytes(64), statements[0]),
    )
    return tuple(map(encode_stream, messages))


def _frames() -> tuple[bytes, ...]:
    frames: tuple[Frame, ...] = (
        Ask("f" * 16, 1_000, b"body"),
        Ask("f" * 16, 1_000, b"body", 0, Requester(key=b"k" * 8, user=b"u" * 8, is_batch=True)),
        Accept(b"body"),
        Refuse("queue_full", "later", 10, _LOAD),
        Data(b"x" * 300),
        End(b""),
        Fail("crashed", "so sorry"),
        Cancel(),
    )
    return tuple(map(encode_frame, frames))


def _bodies() -> tuple[bytes, ...]:
    chat = (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi"))
    call = ToolCall(id="c1", name="f", arguments="{}")
    return (
        payloads.pack_request(GenerateRequest(model="m", messages=chat, stop=("a", "b"), seed=5)),
        payloads.pack_request(GenerateRequest(model="m", prompt="p", max_tokens=9)),
        payloads.pack_request(
            GenerateRequest(
                model="m",
                messages=(
                    ChatMessage(role="assistant", content="", reasoning="r", tool_calls=(call,)),
                    ChatMessage(role="tool", content="r", name="f", tool_call_id="c1"),
                ),
                tools=(Tool(name="f", description="d", parameters="{}"),),
                must_call=True,
                with_markers=True,
            )
        ),
        payloads.pack_request(EmbedRequest(model="m", texts=("a", "b"), dimensions=2)),
        payloads.pack_request(EmbedRequest(model="m", token_ids=((1, 2), (70_000,)))),
        payloads.pack_request(EmbedRequest(model="m", texts=("a", "b"), query="q")),
        payloads.pack_vector(Vector.of((0.5, -0.5))),
        payloads.pack_started(Started((1, 2, 70_000))),
        payloads.pack_started(Started((1, 2), ReplyForm("hermes", "may"))),
        payloads.pack_chunk(Chunk((5, 6), "text")),
        payloads.pack_finished(Finished("stop", 3, 4)),
        pack_call(FunctionCall(function="f", arguments=b"{}", inputs=(("a", b"b"),), priority=1)),
        pack_returned(Returned(result=b"[1]", log=("a line",))),
    )


def _parse_body(data: bytes) -> object:
    """By every reader of bodies: each refuses what another's is."""
    readers: tuple[Callable[[bytes], object], ...] = (
        payloads.unpack_request,
        payloads.unpack_started,
        payloads.unpack_chunk,
        payloads.unpack_vector,
        payloads.unpack_finished,
        unpack_call,
        unpack_returned,
    )
    read: list[object] = []
    for reader in readers:
        try:
            read.append(reader(data))
        except BadPayload:
            continue
    if not read:
        raise BadPayload("nobody reads it")
    return read


class _Sealed:
    """One end of a session, and true datagrams of the other end."""

    def __init__(self) -> None:
        self._anna, bert = (
            Envelope(crypto, _MESH, 2**40 + index, seed_of("boot", index))
            for index, crypto in enumerate((_ANNA, _BERT))
        )
        first = bert.seal(_ANNA.node_id, b"hello")
        assert first is not None
        self.valid = [first]
        for payload in _datagrams()[:3]:
            sealed = bert.seal(_ANNA.node_id, payload)
            assert sealed is not None
            self.valid.append(sealed)
        for data in tuple(self.valid):
            received = self._anna.open(data, _HERE, _BERT.node_id)
            challenge = getattr(received, "challenge", None)
            if challenge is not None:
                self.valid.append(challenge)

    def parse(self, data: bytes) -> object:
        """As a node reads it."""
        short = self._anna.sender_of(data)
        if short == _BERT.node_id[: len(short)]:
            return self._anna.open(data, _HERE, _BERT.node_id)
        return self._anna.refuse_unknown(data, _HERE)


def _token_text() -> str:
    seeds = (_HERE, Address("fd00::1", 7700), Address("host.example", 1))
    return encode_token(
        Token(
            root=_AUTHORITIES.root,
            mesh_secret=seed_of("parsers", "secret"),
            invite_seed=_INVITE_SEED,
            invite=_INVITE,
            seeds=seeds,
        )
    )


def _parse_token(data: bytes) -> object:
    return decode_token(data.decode("latin-1"))


def _parse_token_body(data: bytes) -> object:
    """As a token whose sum is right: a sum keeps out mistakes, and nobody who can count."""
    text = base64.urlsafe_b64encode(data + token._sum(data)).decode().rstrip("=")
    return decode_token(token.TOKEN_PREFIX + text)


def _token_body() -> bytes:
    text = _token_text().removeprefix(token.TOKEN_PREFIX)
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-4]


def _parse_stream_of_frames(data: bytes) -> object:
    """All frames of a stream that brings these bytes, in two pieces, and ends."""
    pieces = [data[: len(data) // 2], data[len(data) // 2 :]]

    async def more() -> None:
        while pieces:
            piece = pieces.pop(0)
            if piece:
                feeding.put_data(piece)
                return
        feeding.put_eof()

    feeding = MemoryReceiveStream(receive_some_hook=more)
    stream = FrameStream(trio.StapledStream(MemorySendStream(), feeding))

    async def read() -> list[bytes]:
        found: list[bytes] = []
        while (frame := await stream.receive(1_000)) is not None:
            found.append(frame)
        return found

    return trio.run(read)


def _framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


BODY_BYTES_MAX: Final = 64


def _parse_incoming(data: bytes) -> object:
    """A body whose pieces are as long as these bytes say; what is kept is what came, or nothing."""
    budget = BodyBudget(2 * BODY_BYTES_MAX)
    announced = data[0] if data else 0
    names = (
        {"content-length": str(announced)} if announced % 2 else {"transfer-encoding": "chunked"}
    )
    pieces = [data[at : at + 1 + data[at] % 32] for at in range(0, len(data[:400]), 16)]
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    if announced % 3:
        messages.append({"type": "http.request"})
    messages.append({"type": "http.disconnect"})
    rest = iter(messages)

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return next(rest)

    async def main() -> bytes:
        limits = Limits(body_bytes_max=BODY_BYTES_MAX, body_s=0.0)
        incoming = Incoming(receive, Headers(names), limits=limits, budget=budget)
        await incoming.watch(lambda: None)
        try:
            body = bytes(await incoming.read())
        finally:
            incoming.close()
            assert budget.take(2 * BODY_BYTES_MAX, incoming), "what was taken is given back"
        assert len(body) <= BODY_BYTES_MAX
        assert b"".join(pieces).startswith(body)
        return body

    return trio.run(main)


def _chats() -> tuple[bytes, ...]:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi \u00fc"}]}
    full = {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, message],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": -5,
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {
        "model": "m",
        "messages": [
            {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "c1"},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
    }
    return (
        json.dumps(full).encode(),
        json.dumps(calling).encode(),
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}',
    )


def _embeddings() -> tuple[bytes, ...]:
    inputs: tuple[object, ...] = ("a", ["a", "\u00fc"], [1, 2], [[1, 2], [3]])
    return tuple(
        json.dumps({"model": "m", "input": given, "dimensions": 2}).encode() for given in inputs
    )


def _rankings() -> tuple[bytes, ...]:
    full = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
    return (json.dumps(full).encode(),)


@functools.cache
def parsers() -> dict[str, Parser]:
    """All of them, by name."""
    sealed = _Sealed()
    refused = (Refused,)
    frames = _frames()
    return {
        "envelope": Parser(
            parse=sealed.parse, refusals=refused, valid=tuple(sealed.valid), bytes_max=2_048
        ),
        "datagram": Parser(
            parse=decode_datagram, refusals=refused, valid=_datagrams(), bytes_max=1_200
        ),
        "statement": Parser(
            parse=decode_statement, refusals=refused, valid=_statements(), bytes_max=1_000
        ),
        "record": Parser(parse=decode_record, refusals=refused, valid=_records(), bytes_max=400),
        "stream": Parser(
            parse=decode_stream, refusals=refused, valid=_streams(), bytes_max=STREAM_BYTES_MAX
        ),
        "exchange": Parser(
            parse=decode_frame, refusals=refused, valid=frames, bytes_max=REQUEST_BYTES_MAX
        ),
        "body": Parser(
            parse=_parse_body,
            refusals=(BadPayload,),
            valid=_bodies(),
            bytes_max=REQUEST_BYTES_MAX,
        ),
        "frames": Parser(
            parse=_parse_stream_of_frames,
            refusals=(StreamBroken,),
            valid=(_framed(*frames), _framed(b"", b"x" * 1_000)),
            bytes_max=65_536,
        ),
        "token": Parser(
            parse=_parse_token,
            refusals=(BadToken,),
            valid=(_token_text().encode(),),
            bytes_max=65_536,
        ),
        "token_body": Parser(
            parse=_parse_token_body, refusals=(BadToken,), valid=(_token_body(),), bytes_max=3_000
        ),
        "chat": Parser(
            parse=parse_chat,
            refusals=(Refusal,),
            valid=_chats(),
            bytes_max=Limits().body_bytes_max,
        ),
        "embedding": Parser(
            parse=parse_embedding,
            refusals=(Refusal,),
            valid=_embeddings(),
            bytes_max=Limits().body_bytes_max,
        ),
        "reranking": Parser(
            parse=parse_rerank,
            refusals=(Refusal,),
            valid=_rankings(),
            bytes_max=Limits().body_bytes_max,
        ),
        "incoming": Parser(
            parse=_parse_incoming,
            refusals=(Refusal,),
            valid=(bytes(range(1, 60)), b"\x02" + bytes(40)),
            bytes_max=400,
        ),
    }
