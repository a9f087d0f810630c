"""Jobs and results survive the way to a peer, and nothing else gets through."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.payloads import BadPayload
from meshd.tasks.payloads import pack_call, pack_returned, unpack_call, unpack_returned
from protocol.fields import pack
from runtimes.functions.call import RESULT_BYTES_MAX, FunctionCall, Returned

NAMES = st.text(max_size=64)
CALLS = st.builds(
    FunctionCall,
    function=NAMES,
    arguments=st.binary(max_size=50),
    inputs=st.lists(st.tuples(NAMES, st.binary(max_size=50)), max_size=4).map(tuple),
    priority=st.integers(min_value=-10, max_value=10),
)


@given(call=CALLS)
def test_a_call_arrives(call: FunctionCall) -> None:
    """As it was sent."""
    assert unpack_call(pack_call(call)) == call


def test_a_result_arrives() -> None:
    """With what the function printed."""
    returned = Returned(result=b"[1]", log=("a line", "ünother"))
    assert unpack_returned(pack_returned(returned)) == returned


@given(body=st.binary(max_size=100))
def test_random_bytes_are_a_bad_payload(body: bytes) -> None:
    """No other exception, whatever comes."""
    for unpack in (unpack_call, unpack_returned):
        with contextlib.suppress(BadPayload):
            unpack(body)


@pytest.mark.parametrize(
    "body",
    [
        pack((2, "function", "f", b"{}", (), 10)),
        pack((1, "wasm", "f", b"{}", (), 10)),
        pack((1, "function", "f" * 65, b"{}", (), 10)),
        pack((1, "function", "f", "{}", (), 10)),
        pack((1, "function", "f", b"{}", ("x",), 10)),
        pack((1, "function", "f", b"{}", (("x", b""),) * 17, 10)),
        pack((1, "function", "f", b"{}", (), 21)),
        pack((1, "function", "f", b"{}", ())),
        pack((1, "function", "f", b"{}", (), 10, (((),) * 64,) * 64)),
    ],
)
def test_hostile_calls_are_refused(body: bytes) -> None:
    """Other versions and runtimes, wrong types, too many, out of range."""
    with pytest.raises(BadPayload):
        unpack_call(body)


@pytest.mark.parametrize(
    "body",
    [
        pack(("{}", ())),
        pack((bytes(RESULT_BYTES_MAX + 1), ())),
        pack((b"1", ("x",) * 21)),
        pack((b"1", ("\x1b[2J",))),
        pack((b"1", ("x" * 401,))),
        pack((b"1", (1,))),
        pack((b"1", ((),) * 21)),
        pack((b"1",)),
    ],
)
def test_hostile_results_are_refused(body: bytes) -> None:
    """Too large, too many lines, lines that would steer a terminal."""
    with pytest.raises(BadPayload):
        unpack_returned(body)
