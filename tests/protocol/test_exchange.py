"""The framing of one forwarded request."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DropReason, LocalProtocolError, Refused
from protocol.exchange import (
    DEADLINE_MS_MAX,
    REQUEST_BYTES_MAX,
    Accept,
    Ask,
    Asker,
    Cancel,
    Data,
    End,
    Fail,
    Frame,
    Heartbeat,
    Refuse,
    Server,
    decode_frame,
    encode_frame,
)
from protocol.fields import pack
from protocol.messages import Load
from protocol.outlook import NOTHING, PLACE_MAX, READY_S_MAX, Outlook
from protocol.records import Priority
from protocol.requester import ANYBODY, NAME_BYTES_MAX, Requester
from tests.helpers.nodes import refusal
from tests.helpers.strategies import loads

_blobs = st.binary(max_size=100)
_names = st.binary(max_size=NAME_BYTES_MAX)
requesters = st.builds(
    Requester,
    key=_names,
    user=_names,
    priority=st.sampled_from(Priority),
    is_batch=st.booleans(),
    is_impatient=st.booleans(),
)
outlooks = st.builds(
    Outlook,
    place=st.integers(0, PLACE_MAX),
    percent=st.none() | st.integers(0, 100),
    ready_in_s=st.integers(0, READY_S_MAX),
)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Ask,
        st.text(max_size=64),
        st.integers(0, DEADLINE_MS_MAX),
        _blobs,
        st.integers(0, DEADLINE_MS_MAX),
        requesters,
    ),
    st.builds(Accept, _blobs),
    st.builds(
        Refuse,
        st.text(max_size=64),
        st.text(max_size=100),
        st.integers(0, DEADLINE_MS_MAX),
        loads,
    ),
    st.builds(Data, _blobs),
    st.builds(End, _blobs),
    st.builds(Fail, st.text(max_size=64), st.text(max_size=100)),
    st.builds(Cancel),
    st.builds(Heartbeat, outlooks),
)
REFUSE = Refuse("full", "later", 10, Load(1, 2, 3))


@given(frames)
def test_frames_survive(frame: Frame) -> None:
    """decode(encode(f)) == f."""
    assert decode_frame(encode_frame(frame)) == frame


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    """Decoding raises Refused(MALFORMED) and nothing else."""
    assert refusal(decode_frame, data) in (None, DropReason.MALFORMED)


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\xdd\x00\xff\xff\xff" + b"\x01" * 0xFFFFFF, id="numbers"),
        pytest.param(b"\xdd\x00\x50\x00\x00" + b"\x91\x91\x90" * 0x500000, id="arrays"),
        pytest.param(b"\x9f" + b"\x9f" * 15 * 15 * 15 + b"\x90" * 15**4, id="a tree"),
        pytest.param(b"\x91" * (REQUEST_BYTES_MAX - 1) + b"\x90", id="depth"),
    ],
)
def test_a_frame_holds_only_so_many_values(junk: bytes) -> None:
    """Millions of them in the few megabytes that a request may have would cost seconds and
    gigabytes; nothing of them is built.
    """
    tracemalloc.start()
    try:
        assert refusal(decode_frame, junk) is DropReason.MALFORMED
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_ask_without_a_heartbeat_is_an_earlier_versions() -> None:
    """It wants none."""
    assert decode_frame(pack((1, "ab", 5, b"x"))) == Ask("ab", 5, b"x", 0)


def test_an_earlier_version_says_that_it_lives_and_no_more() -> None:
    """Nothing to tell takes no bytes either; what a later one adds is skipped."""
    assert encode_frame(Heartbeat()) == pack((8,))
    assert decode_frame(pack((8,))) == Heartbeat(NOTHING)
    told = Outlook(place=3, percent=40, ready_in_s=12)
    assert decode_frame(pack((8, 3, 41, 12, "later"))) == Heartbeat(told)


@pytest.mark.parametrize("fields", [(3,), (-1, 0, 0), (1, 102, 0), (1, 0, 2**31), ("x", 0, 0)])
def test_an_outlook_that_cannot_be_is_refused(fields: tuple[object, ...]) -> None:
    """Whatever a peer sends."""
    assert refusal(decode_frame, pack((8, *fields))) is DropReason.MALFORMED


def test_an_earlier_version_tells_nothing_of_who_is_behind_a_request() -> None:
    """And reads what later ones tell as the nearest that it knows; what is longer is skipped."""
    assert decode_frame(pack((1, "ab", 5, b"body"))) == Ask("ab", 5, b"body", 0, ANYBODY)
    later = decode_frame(pack((1, "ab", 5, b"body", 0, (7, 9, b"k", b"u", 0, "more"), "more")))
    assert later == Ask("ab", 5, b"body", 0, Requester(key=b"k", user=b"u", priority=Priority.HIGH))


@pytest.mark.parametrize(
    "told", [None, 1, (), (0, 1, b"k"), (-1, 1, b"", b""), (0, 1, b"k" * 17, b""), (0, 1, "k", b"")]
)
def test_who_is_behind_a_request_is_bounded(told: object) -> None:
    """A name has 16 bytes, and all is there or nothing."""
    data = pack((1, "ab", 5, b"body", 0, told))
    assert refusal(decode_frame, data) is DropReason.MALFORMED


def test_unknown_frames_are_refused() -> None:
    """A frame of a later version ends the exchange."""
    with pytest.raises(Refused, match="unknown frame"):
        decode_frame(pack((9,)))


@pytest.mark.parametrize(
    "answer",
    [
        [Accept(b"a"), Data(b"1"), Data(b"2"), End(b"e")],
        [Accept(b"a"), End(b"")],
        [Accept(b"a"), Fail("crashed", "so sorry")],
        [REFUSE],
        [Heartbeat(), Heartbeat(), Accept(b"a"), Heartbeat(), Data(b"1"), Heartbeat(), End(b"e")],
        [Heartbeat(), REFUSE],
    ],
)
def test_orders_that_both_ends_allow(
    answer: list[Accept | Refuse | Data | Heartbeat | End | Fail],
) -> None:
    """What the server may send, the asker takes; then it is over for both."""
    asker, server = Asker(), Server()
    for frame in answer:
        assert not asker.is_over
        assert asker.receive(server.send(frame)) == frame
    assert asker.is_over
    with pytest.raises(LocalProtocolError):
        server.send(Data(b""))


@pytest.mark.parametrize(
    "frames",
    [
        [Data(b"")],
        [End(b"")],
        [Fail("", "")],
        [Ask("", 1, b"")],
        [Cancel()],
        [Accept(b""), Accept(b"")],
        [Accept(b""), REFUSE],
        [Accept(b""), End(b""), Data(b"")],
        [REFUSE, Accept(b"")],
        [REFUSE, Heartbeat()],
    ],
)
def test_orders_that_neither_end_allows(frames: list[Frame]) -> None:
    """The last frame is out of its turn: refused by the asker, not sent by our server."""
    asker, server = Asker(), Server()
    *good, bad = frames
    for frame in good:
        assert isinstance(frame, Accept | Refuse | Data | End | Fail)
        asker.receive(server.send(frame))
    with pytest.raises(Refused) as caught:
        asker.receive(encode_frame(bad))
    assert caught.value.reason is DropReason.UNEXPECTED
    if isinstance(bad, Accept | Refuse | Data | End | Fail):
        with pytest.raises(LocalProtocolError):
            server.send(bad)
