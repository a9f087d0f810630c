"""What daemon and worker say to each other survives any cut, and nothing else gets through."""

import contextlib
import struct
from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.llama import frames
from runtimes.llama.frames import FRAME_BYTES_MAX, Frame, FrameDecoder, encode
from runtimes.worker.framing import FrameError

NUMBERS = st.integers(min_value=-1, max_value=2**63 - 1)
TEXT = st.text(max_size=20)
TEXTS = st.lists(TEXT, max_size=6).map(tuple)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        frames.Load,
        path=st.binary(max_size=20),
        context_tokens=st.none() | NUMBERS,
        cores=NUMBERS,
        threads=st.none() | NUMBERS,
        gpu_layers=NUMBERS,
        content_hash=st.none() | TEXT,
        slots=st.none() | NUMBERS,
        kv_tokens=st.none() | NUMBERS,
        reproducible=st.booleans(),
        flash_attention=st.none() | st.booleans(),
        memory_bytes=NUMBERS,
        split_mode=st.none() | NUMBERS,
        main_gpu=st.none() | NUMBERS,
        tensor_split=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
        draft=st.none() | st.binary(max_size=20),
        draft_tokens=NUMBERS,
        projector=st.none() | st.binary(max_size=20),
    ),
    st.builds(
        frames.Generate,
        request=NUMBERS,
        messages=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
        prompt=st.none() | TEXT,
        max_tokens=st.none() | NUMBERS,
        temperature=st.floats(allow_nan=False),
        top_p=st.floats(allow_nan=False),
        top_k=NUMBERS,
        min_p=st.floats(allow_nan=False),
        seed=st.none() | NUMBERS,
        stop=st.lists(TEXT, max_size=3).map(tuple),
        ignore_eos=st.booleans(),
        typical_p=st.floats(allow_nan=False),
        repeat_penalty=st.floats(allow_nan=False),
        presence_penalty=st.floats(allow_nan=False),
        frequency_penalty=st.floats(allow_nan=False),
        bias_tokens=st.lists(NUMBERS, max_size=3).map(tuple),
        bias_values=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
        grammar=st.none() | TEXT,
        json_schema=st.none() | TEXT,
        continued_ids=st.lists(NUMBERS, max_size=9).map(tuple),
        logprobs=st.none() | NUMBERS,
        tools=st.lists(TEXTS, max_size=3).map(tuple),
        must_call=st.booleans(),
        parallel_calls=st.booleans(),
        with_markers=st.booleans(),
        stop_token_ids=st.lists(NUMBERS, max_size=3).map(tuple),
        images=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
        image_places=st.lists(st.lists(NUMBERS, max_size=3).map(tuple), max_size=3).map(tuple),
    ),
    st.builds(frames.Credit, request=NUMBERS, tokens=NUMBERS),
    st.builds(frames.Cancel, request=NUMBERS),
    st.builds(frames.Loading, progress=st.floats(allow_nan=False)),
    st.builds(
        frames.Ready,
        content_hash=TEXT,
        architecture=TEXT,
        parameters=NUMBERS,
        quantization=TEXT,
        size_bytes=NUMBERS,
        context_tokens=NUMBERS,
        gpu_offload=st.booleans(),
        slots=NUMBERS,
        tasks=TEXTS,
    ),
    st.builds(frames.LoadFailed, code=TEXT, message=TEXT),
    st.builds(
        frames.Started,
        request=NUMBERS,
        prompt_token_ids=st.lists(NUMBERS, max_size=9).map(tuple),
        calls=TEXT,
        thoughts=TEXT,
    ),
    st.builds(frames.Prefilled, request=NUMBERS, tokens=NUMBERS),
    st.builds(
        frames.Tokens,
        request=NUMBERS,
        token_ids=st.lists(NUMBERS, max_size=9).map(tuple),
        text=TEXT,
        likely_ids=st.lists(NUMBERS, max_size=3).map(tuple),
        likely_data=st.lists(st.binary(max_size=5), max_size=3).map(tuple),
        likely_logprobs=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    ),
    st.builds(
        frames.Ended,
        request=NUMBERS,
        finish_reason=TEXT,
        prompt_tokens=NUMBERS,
        completion_tokens=NUMBERS,
        cached_tokens=NUMBERS,
    ),
    st.builds(frames.Failed, request=NUMBERS, code=TEXT, message=TEXT),
    st.builds(frames.Cancelled, request=NUMBERS),
    st.builds(
        frames.Embed,
        request=NUMBERS,
        texts=TEXTS,
        token_ids=st.lists(st.lists(NUMBERS, max_size=3).map(tuple), max_size=3).map(tuple),
        query=st.none() | TEXT,
        dimensions=st.none() | NUMBERS,
    ),
    st.builds(frames.Embedded, request=NUMBERS, data=st.binary(max_size=20)),
    st.builds(frames.Measured, prefill_ns=NUMBERS, decode_ns=NUMBERS),
    st.builds(frames.Measure, stop=st.booleans()),
    st.builds(frames.Encoding, request=NUMBERS),
)
MSGPACK_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=20,
)


def framed(body: bytes) -> bytes:
    """`body` with its length in front."""
    return struct.pack(">I", len(body)) + body


@given(sent=st.lists(FRAMES, max_size=5), cut=st.integers(min_value=1, max_value=50))
def test_what_was_sent_arrives(sent: list[Frame], cut: int) -> None:
    """Every frame comes out as it went in, however the stream is cut."""
    stream = b"".join(map(encode, sent))
    decoder = FrameDecoder()
    arrived: list[Frame] = []
    for start in range(0, len(stream), cut):
        arrived += decoder.feed(stream[start : start + cut])
    assert arrived == sent


@given(stream=st.binary(max_size=200))
def test_random_bytes_are_frames_or_a_frame_error(stream: bytes) -> None:
    """No other exception, whatever comes."""
    with contextlib.suppress(FrameError):
        list(FrameDecoder().feed(stream))


@given(value=MSGPACK_VALUES)
def test_random_msgpack_is_a_frame_or_a_frame_error(value: object) -> None:
    """Well-formed msgpack of the wrong shape gets no further than random bytes."""
    try:
        arrived = list(FrameDecoder().feed(framed(msgpack.packb(value))))
    except FrameError:
        return
    assert all(isinstance(frame, get_args(Frame)) for frame in arrived)


@given(
    number=st.integers(min_value=0, max_value=len(get_args(Frame)) - 1),
    fields=st.lists(MSGPACK_VALUES, max_size=12),
)
def test_wrong_fields_are_a_frame_error(number: int, fields: list[object]) -> None:
    """A known number with arbitrary fields: the right types, or a FrameError."""
    try:
        arrived = list(FrameDecoder().feed(framed(msgpack.packb([number, *fields]))))
    except FrameError:
        return
    assert [type(frame) for frame in arrived] == [get_args(Frame)[number]]


@pytest.mark.parametrize(
    "stream",
    [
        b"\0\0\0\0",
        struct.pack(">I", FRAME_BYTES_MAX + 1),
        b"\xff\xff\xff\xff",
        framed(b"\x91" * 5000),
        framed(msgpack.packb([999, 1])),
        framed(msgpack.packb([True, 1])),
        framed(msgpack.packb([])),
        framed(msgpack.packb([3, True])),
        framed(msgpack.packb([3, 2**64 - 1])),
        framed(msgpack.packb([3, 1]) + b"x"),
        framed(msgpack.packb([3, msgpack.ExtType(5, b"")])),
        framed(msgpack.packb([3, msgpack.Timestamp(1)])),
        framed(b"\x92\x06\xa1\xff"),
        framed(b"\xdd\xff\xff\xff\xff"),
        framed(b"\x92\x03\x81\xc0\xc0"),
    ],
)
def test_hostile_bytes_are_refused(stream: bytes) -> None:
    """Lengths that are no lengths, deep nesting, unknown numbers, ranges, trailing bytes."""
    with pytest.raises(FrameError):
        list(FrameDecoder().feed(stream))


def test_a_length_beyond_the_limit_is_refused_before_its_body() -> None:
    """Nothing is buffered for a frame that is too large."""
    decoder = FrameDecoder()
    assert list(decoder.feed(b"\x7f\xff\xff")) == []
    with pytest.raises(FrameError):
        list(decoder.feed(b"\xff"))


@pytest.mark.parametrize(
    "frame",
    [
        frames.LoadFailed(code="\ud800", message=""),
        frames.Credit(request=2**64, tokens=1),
        frames.LoadFailed(code="", message="x" * (FRAME_BYTES_MAX + 1)),
    ],
)
def test_what_cannot_be_sent_is_a_frame_error(frame: Frame) -> None:
    """Lone surrogates, numbers beyond 64 bits and too much text never reach the pipe."""
    with pytest.raises(FrameError):
        encode(frame)
