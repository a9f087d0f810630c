"""The bodies that peers exchange: they survive, and anything else is a BadPayload."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import payloads
from meshd.payloads import BadPayload
from protocol.fields import pack, unpack
from runtimes import limits
from runtimes.base import (
    ChatMessage,
    Chunk,
    Finished,
    GenerateRequest,
    Logprob,
    Request,
    Started,
    Tool,
    ToolCall,
)
from runtimes.embedding import EmbedRequest, Vector
from runtimes.images import Image
from runtimes.reply_form import ReplyForm

unit = st.floats(0, 1)
texts = st.text(max_size=20)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts)
messages = st.lists(
    st.builds(
        ChatMessage,
        role=st.text(max_size=80),
        content=st.text(max_size=80),
        reasoning=texts,
        name=texts,
        tool_call_id=texts,
        tool_calls=st.lists(calls, max_size=3).map(tuple),
    ),
    max_size=4,
).map(tuple)
tools = st.builds(Tool, name=texts, description=texts, parameters=texts)
requests = st.builds(
    GenerateRequest,
    model=st.text(max_size=200),
    messages=st.none() | messages,
    prompt=st.none() | st.text(max_size=200),
    max_tokens=st.none() | st.integers(0, limits.TOKENS_MAX),
    temperature=st.floats(0, limits.TEMPERATURE_MAX),
    top_p=unit,
    top_k=st.integers(0, limits.TOKENS_MAX),
    min_p=unit,
    seed=st.none() | st.integers(0, limits.SEED_MAX),
    stop=st.lists(st.text(max_size=20), max_size=limits.STOPS_MAX).map(tuple),
    ignore_eos=st.booleans(),
    typical_p=unit,
    repeat_penalty=st.floats(0.1, limits.REPEAT_PENALTY_MAX),
    presence_penalty=st.floats(-limits.PENALTY_MAX, limits.PENALTY_MAX),
    frequency_penalty=st.floats(-limits.PENALTY_MAX, limits.PENALTY_MAX),
    logit_bias=st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.floats(-limits.BIAS_MAX, limits.BIAS_MAX)),
        max_size=4,
    ).map(tuple),
    grammar=st.none() | st.text(max_size=40),
    json_schema=st.none() | st.text(max_size=40),
    continued_ids=st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple),
    logprobs=st.none() | st.integers(0, limits.LOGPROBS_MAX),
    tools=st.lists(tools, max_size=3).map(tuple),
    must_call=st.booleans(),
    parallel_calls=st.booleans(),
    with_markers=st.booleans(),
    stop_token_ids=st.lists(st.integers(0, limits.TOKENS_MAX), max_size=limits.STOP_TOKENS_MAX).map(
        tuple
    ),
    images=st.lists(
        st.builds(Image, st.binary(max_size=20), st.integers(0, 5), st.integers(0, 500)), max_size=3
    ).map(tuple),
)
embeddings = st.builds(
    EmbedRequest,
    model=st.text(max_size=200),
    texts=st.lists(texts, max_size=4).map(tuple),
    token_ids=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple), max_size=4).map(
        tuple
    ),
    query=st.none() | texts,
    dimensions=st.none() | st.integers(1, limits.DIMENSIONS_MAX),
)
vectors = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1).map(
    Vector.of
)
likely = st.builds(Logprob, st.integers(0, 2**31 - 1), st.binary(max_size=9), st.floats(-1e4, 0.0))
logprobs = st.lists(st.lists(likely, max_size=4).map(tuple), max_size=3).map(tuple)
forms = st.builds(ReplyForm, st.text(max_size=20), st.text(max_size=20))
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
counts = st.integers(0, limits.TOKENS_MAX)

UNPACKERS: tuple[Callable[[bytes], object], ...] = (
    payloads.unpack_request,
    payloads.unpack_started,
    payloads.unpack_chunk,
    payloads.unpack_vector,
    payloads.unpack_finished,
)
GOOD = GenerateRequest(model="m", prompt="p")


@given(requests | embeddings)
def test_requests_survive(request: Request) -> None:
    """Whatever a runtime would take, a peer gets unchanged."""
    assert payloads.unpack_request(payloads.pack_request(request)) == request


@given(token_ids, forms, st.text(max_size=50), logprobs, counts, counts, counts)
def test_events_survive(
    ids: tuple[int, ...],
    form: ReplyForm,
    text: str,
    likely: tuple[tuple[Logprob, ...], ...],
    prompt: int,
    completion: int,
    cached: int,
) -> None:
    """Started, chunks and the end come out as they went in."""
    started, chunk = Started(ids, form), Chunk(ids, text, likely)
    finished = Finished("stop", prompt, completion, cached)
    assert payloads.unpack_started(payloads.pack_started(started)) == started
    assert payloads.unpack_chunk(payloads.pack_chunk(chunk)) == chunk
    assert payloads.unpack_finished(payloads.pack_finished(finished)) == finished


@given(vectors)
def test_vectors_survive(vector: Vector) -> None:
    """Bit for bit."""
    assert payloads.unpack_vector(payloads.pack_vector(vector)) == vector


@pytest.mark.parametrize(
    "fields",
    [
        ("m", ("a",), (), None),
        ("m", ("a",), (), None, 0),
        ("m", ("a",), (), None, limits.DIMENSIONS_MAX + 1),
        ("m", "a", (), None, None),
        ("m", (b"a",), (), None, None),
        ("m", ("a",) * (limits.TEXTS_MAX + 1), (), None, None),
        ("m", (), (1, 2), None, None),
        ("m", (), ((-1,),), None, None),
        ("m", (), ((True,),), None, None),
        ("m", (), ((1,),) * (limits.TEXTS_MAX + 1), None, None),
        ("m", ("a",), (), 5, None),
        (None, ("a",), (), None, None),
    ],
)
def test_requests_to_embed_out_of_range_are_bad(fields: tuple[object, ...]) -> None:
    """They are checked as those that generate."""
    with pytest.raises(BadPayload):
        payloads.unpack_request(pack((3, *fields)))


_msgpack = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
).map(pack)


@pytest.mark.parametrize("unpack", UNPACKERS)
@given(st.binary(max_size=300) | _msgpack)
def test_any_bytes_are_a_value_or_bad(unpack: Callable[[bytes], object], body: bytes) -> None:
    """BadPayload and nothing else, for junk and for well-formed nonsense."""
    with contextlib.suppress(BadPayload):
        unpack(body)


def _changed(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "version": 1,
        "model": "m",
        "messages": None,
        "prompt": "p",
        "max_tokens": None,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "seed": None,
        "stop": (),
        "ignore_eos": 0,
    }
    return pack(tuple({**fields, **changed}.values()))


def test_the_unchanged_fields_are_a_request() -> None:
    """So that the next test fails for the reason that it names."""
    assert payloads.unpack_request(_changed()) == GOOD


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 3},
        {"model": None},
        {"model": "x" * 1_001},
        {"messages": "hello"},
        {"messages": (("user",),)},
        {"messages": (("user", 1),)},
        {"messages": ("user", "hello")},
        {"messages": (("a", "b"),) * (limits.MESSAGES_MAX + 1)},
        {"prompt": b"bytes"},
        {"max_tokens": -1},
        {"max_tokens": True},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": -0.1},
        {"temperature": "hot"},
        {"top_p": 1.1},
        {"top_p": True},
        {"top_k": -1},
        {"min_p": None},
        {"seed": 1.5},
        {"stop": "abc"},
        {"stop": ("a", 1)},
        {"stop": ("a",) * 65},
        {"ignore_eos": 2},
    ],
)
def test_requests_out_of_range_are_bad(changed: dict[str, object]) -> None:
    """Each field is checked before any runtime sees it."""
    with pytest.raises(BadPayload):
        payloads.unpack_request(_changed(**changed))


LATER: dict[str, object] = {
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "bias_tokens": (),
    "bias_values": (),
    "grammar": None,
    "json_schema": None,
    "continued_ids": (),
    "logprobs": None,
}


def test_later_fields_change_nothing_by_themselves() -> None:
    """An earlier version's request is the later one's with defaults."""
    assert payloads.unpack_request(_changed(**LATER)) == GOOD


@pytest.mark.parametrize(
    "changed",
    [
        {"typical_p": 2.0},
        {"repeat_penalty": math.nan},
        {"presence_penalty": 3.0},
        {"frequency_penalty": "x"},
        {"bias_tokens": (1,)},
        {"bias_values": (1.0,)},
        {"bias_tokens": (1,), "bias_values": (101.0,)},
        {"bias_tokens": (1,) * 1025, "bias_values": (1.0,) * 1025},
        {"grammar": 5},
        {"json_schema": b"x"},
        {"continued_ids": (-1,)},
        {"continued_ids": None},
        {"logprobs": 21},
        {"logprobs": True},
    ],
)
def test_later_fields_out_of_range_are_bad(changed: dict[str, object]) -> None:
    """They are checked like the first ones."""
    with pytest.raises(BadPayload):
        payloads.unpack_request(_changed(**{**LATER, **changed}))


LATEST: dict[str, object] = {
    **LATER,
    "tools": (),
    "must_call": 0,
    "parallel_calls": 1,
    "with_markers": 0,
    "stop_token_ids": (),
    "images": (),
}


def test_the_latest_fields_change_nothing_by_themselves() -> None:
    """As those before them; what comes yet is ignored."""
    assert payloads.unpack_request(_changed(**LATEST)) == GOOD
    assert payloads.unpack_request(_changed(**LATEST, more="of a later version")) == GOOD


@pytest.mark.parametrize(
    "changed",
    [
        {"tools": "x"},
        {"tools": (("f", "d"),)},
        {"tools": (("f", "d", 5),)},
        {"tools": (("f", "d", "{}"),) * (limits.TOOLS_MAX + 1)},
        {"must_call": 2},
        {"parallel_calls": None},
        {"with_markers": "yes"},
        {"stop_token_ids": (-1,)},
        {"stop_token_ids": None},
        {"stop_token_ids": (1,) * (limits.STOP_TOKENS_MAX + 1)},
        {"images": None},
        {"images": (b"a",)},
        {"images": (("a", 0, 0),)},
        {"images": ((b"a", -1, 0),)},
        {"images": ((b"a", 0, True),)},
        {"images": ((b"a", 0, 0),) * (limits.IMAGES_MAX + 1)},
        {"messages": (("user", "a", "b"),)},
        {"messages": (("user", "a", "b", "c", "d", "e"),)},
        {"messages": (("user", "a", "b", "c", "d", "e", "f", 5),)},
        {"messages": (("x",) * (5 + 3 * limits.CALLS_MAX + 3),)},
    ],
)
def test_the_latest_fields_out_of_range_are_bad(changed: dict[str, object]) -> None:
    """They are checked like the first ones."""
    with pytest.raises(BadPayload):
        payloads.unpack_request(_changed(**{**LATEST, **changed}))


USER = ChatMessage(role="user", content="a")
LOOK = Tool(name="f", parameters="{}")


@pytest.mark.parametrize(
    ("request_", "version"),
    [
        (GOOD, 1),
        (GenerateRequest(model="m", messages=(USER,), with_markers=True), 1),
        (GenerateRequest(model="m", messages=(USER,), tools=(LOOK,)), 2),
        (GenerateRequest(model="m", messages=(dataclasses.replace(USER, reasoning="b"), USER)), 2),
        (GenerateRequest(model="m", messages=(dataclasses.replace(USER, role="assistant"),)), 2),
        (GenerateRequest(model="m", messages=(USER,), tools=(LOOK,), stop_token_ids=(5,)), 4),
        (GenerateRequest(model="m", messages=(USER,), images=(Image(b"a", 0, 1),)), 5),
    ],
)
def test_what_an_earlier_version_would_misread_has_another_number(
    request_: GenerateRequest, version: int
) -> None:
    """It refuses such a request, and does not answer as if there were no tools, stops or images."""
    body = payloads.pack_request(request_)
    assert unpack(body)[0] == version
    assert payloads.unpack_request(body) == request_


def test_who_knows_no_forms_reads_a_plain_start() -> None:
    """Its body is the token ids alone, as it ever was."""
    assert unpack(payloads.pack_started(Started((1, 2)))) == (1, 2)
    for body in (((1,), "a"), ((1,), 5, "b"), ((1,), "a", "b" * 65), ((1,), "a", ()), ((), ())):
        with pytest.raises(BadPayload):
            payloads.unpack_started(pack(body))


def test_an_end_of_an_earlier_version_has_no_cached_tokens() -> None:
    """A field that is missing has its default."""
    assert payloads.unpack_finished(pack(("stop", 3, 4))) == Finished("stop", 3, 4, 0)


@pytest.mark.parametrize(
    "likely",
    [
        None,
        (1,),
        ((1,),),
        (((1, b"x"),),),
        (((1, "x", -0.5),),),
        (((1, b"x" * 5_000, -0.5),),),
        (((1, b"x", math.nan),),),
        (((-1, b"x", -0.5),),),
        ((),) * 5_000,
    ],
)
def test_logprobs_are_numbers_of_tokens(likely: object) -> None:
    """Nothing else comes out of a chunk."""
    with pytest.raises(BadPayload):
        payloads.unpack_chunk(pack(((1,), "x", likely)))


@pytest.mark.parametrize("ids", [None, "abc", (1, "2"), (-1,), (2**31,), (True,), (1.0,), {"a": 1}])
def test_token_ids_are_numbers_of_tokens(ids: object) -> None:
    """Nothing else comes out of Started and Chunk."""
    with pytest.raises(BadPayload):
        payloads.unpack_started(pack(ids))
    with pytest.raises(BadPayload):
        payloads.unpack_chunk(pack((ids, "text")))


def test_more_token_ids_than_may_be_embedded_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are counted over all texts first: each look at one would hold up the node."""
    half = (7,) * (limits.TEXT_TOKENS_MAX // 2)
    asked = EmbedRequest(model="m", token_ids=(half, half))
    assert payloads.unpack_request(payloads.pack_request(asked)) == asked
    looked: list[object] = []
    monkeypatch.setattr(payloads, "_token_ids", looked.append)
    body = payloads.pack_request(dataclasses.replace(asked, token_ids=(half, half, (7,))))
    with pytest.raises(BadPayload):
        payloads.unpack_request(body)
    assert not looked


def test_a_text_of_half_a_character_is_bad() -> None:
    """Rule 3 of the contract: text is complete UTF-8, from peers too."""
    with pytest.raises(BadPayload):
        payloads.unpack_chunk(b"\x92\x90\xa1\xc3")


def test_every_limit_here_is_at_least_the_runtimes() -> None:
    """A request that would run locally is not refused by the framing of the same mesh."""
    turn = ChatMessage(role="r" * 100, content="x")
    longest = GenerateRequest(
        model="m" * 200,
        messages=(turn,) * limits.MESSAGES_MAX,
        max_tokens=limits.TOKENS_MAX,
        temperature=limits.TEMPERATURE_MAX,
        top_k=limits.TOKENS_MAX,
        seed=limits.SEED_MAX,
        stop=("s" * limits.STOP_CHARACTERS_MAX,) * limits.STOPS_MAX,
    )
    limits.check_request(longest)
    assert payloads.unpack_request(payloads.pack_request(longest)) == longest


@pytest.mark.parametrize("unpack", UNPACKERS)
@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\xdd\x00\x40\x00\x00" + b"\x01" * 2**22, id="numbers"),
        pytest.param(b"\xdd\x00\x20\x00\x00" + b"\x91\x90" * 2**21, id="arrays"),
        pytest.param(b"\xdd\x00\x00\x20\x00" + (b"\x98" + b"\x90" * 8) * 2**13, id="a tree"),
    ],
)
def test_a_body_holds_only_so_many_values(unpack: Callable[[bytes], object], junk: bytes) -> None:
    """A few megabytes of tiny ones are refused before most of them are built."""
    with pytest.raises(BadPayload):
        unpack(junk)


def test_a_prompt_may_be_as_long_as_any() -> None:
    """All token ids that the longest prompt can have come through; one more does not."""
    most = limits.PROMPT_BYTES_MAX // 4
    assert len(payloads.unpack_started(pack((7,) * most)).prompt_token_ids) == most
    with pytest.raises(BadPayload):
        payloads.unpack_started(pack((7,) * (most + 1)))
