"""The exchange that makes a token of a short code: who gets it, and who learns nothing."""

import itertools
import secrets
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spake2 import SPAKE2_B

from meshd.trust.pairing import (
    ANSWER_BYTES_MAX,
    HELLO_BYTES_MAX,
    PROOF_BYTES_MAX,
    BadFrame,
    Code,
    Hello,
    Impostor,
    JoinerSide,
    OfferSide,
    WrongCode,
    make_code,
    read_code,
    refusal,
)
from meshd.trust.token import TOKEN_CHARS_MAX
from protocol.fields import pack, unpack
from protocol.identity import MeshId, NodeId

CODE = Code("47", "39158206")
OTHER = Code("47", "39158207")
MESH, NODE = MeshId(b"m" * 16), NodeId(b"n" * 32)
TOKEN = "meshd1_" + "t" * (TOKEN_CHARS_MAX - 7)
POINTS = [
    b"\0" * 32,  # of small order, or on no curve at all
    b"\1" + b"\0" * 31,
    b"\xff" * 32,
    (2**255 - 20).to_bytes(32, "little"),
    (2).to_bytes(32, "little"),
]


def _offer(code: Code = CODE) -> OfferSide:
    return OfferSide(code, MESH, NODE)


def _joiner(offer: OfferSide, code: Code = CODE) -> JoinerSide:
    return JoinerSide(code, Hello(offer.hello))


def test_who_knows_the_code_gets_the_token() -> None:
    """Also the longest, in frames within their limits; hello says who offers."""
    offer = _offer()
    hello = Hello(offer.hello)
    assert (hello.nameplate, hello.mesh, hello.node) == ("47", MESH, NODE)
    joiner = JoinerSide(CODE, hello)
    answer = offer.check(joiner.proof).answer(TOKEN)
    assert joiner.open(answer) == TOKEN
    assert len(offer.hello) <= HELLO_BYTES_MAX
    assert len(joiner.proof) <= PROOF_BYTES_MAX
    assert len(answer) <= ANSWER_BYTES_MAX


def test_another_code_is_wrong_before_a_token_is_made() -> None:
    """By a single digit; the joiner hears how many tries are left."""
    offer = _offer()
    joiner = _joiner(offer, OTHER)
    with pytest.raises(WrongCode):
        offer.check(joiner.proof)
    with pytest.raises(WrongCode) as failed:
        joiner.open(refusal(2))
    assert failed.value.tries_left == 2


def test_an_impostor_that_only_says_yes_gets_no_trust() -> None:
    """Who does not know the code cannot hand a token of its own to the joiner."""
    honest, rogue = _offer(), _offer(OTHER)
    joiner = JoinerSide(CODE, Hello(rogue.hello))
    with pytest.raises(WrongCode):
        rogue.check(joiner.proof)
    theirs = honest.check(_joiner(honest).proof).answer(TOKEN)
    for answer in (theirs, pack((1, b"\0" * 32, b"\0" * 60)), pack((1, b"\0" * 32, b""))):
        with pytest.raises(Impostor):
            joiner.open(answer)


def _flipped(frame: bytes, at: int) -> bytes:
    """The frame with one bit changed."""
    return frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]


def test_a_man_in_the_middle_who_changes_a_bit_ends_it() -> None:
    """In whichever frame: no side ends with a token, and none trusts what was changed."""
    for at in range(0, len(_offer().hello), 3):
        offer = _offer()
        with pytest.raises((BadFrame, WrongCode)):
            offer.check(JoinerSide(CODE, Hello(_flipped(offer.hello, at))).proof)
    for at in range(0, len(_joiner(_offer()).proof), 3):
        offer = _offer()
        with pytest.raises((BadFrame, WrongCode)):
            offer.check(_flipped(_joiner(offer).proof, at))
    offer = _offer()
    joiner = _joiner(offer)
    answer = offer.check(joiner.proof).answer("meshd1_short")
    for wrong in (*(_flipped(answer, at) for at in range(len(answer))), answer[:-1]):
        with pytest.raises((BadFrame, WrongCode, Impostor)):
            joiner.open(wrong)
    assert joiner.open(answer) == "meshd1_short"


@pytest.mark.parametrize("field", [1, 2, 3])
def test_what_hello_says_is_bound(field: int) -> None:
    """Another nameplate, mesh or node in it, and the joiner's proof does not hold."""
    offer = _offer()
    said = list(unpack(offer.hello))
    said[field] = ("48", b"M" * 16, b"N" * 32)[field - 1]
    with pytest.raises(WrongCode):
        offer.check(JoinerSide(CODE, Hello(pack(tuple(said)))).proof)


def test_a_proof_and_an_answer_are_for_one_exchange() -> None:
    """What was recorded opens nothing later: both sides draw anew."""
    first, second = _offer(), _offer()
    joiner = _joiner(first)
    with pytest.raises(WrongCode):
        second.check(joiner.proof)
    answer = first.check(joiner.proof).answer(TOKEN)
    with pytest.raises(Impostor):
        _joiner(second).open(answer)


def test_an_eavesdropper_sees_neither_code_nor_token() -> None:
    """No part of them is in any frame, and no two exchanges have a frame in common."""
    frames: list[bytes] = []
    for _ in range(2):
        offer = _offer()
        joiner = _joiner(offer)
        frames += [offer.hello, joiner.proof, offer.check(joiner.proof).answer("meshd1_secret")]
    assert len(set(frames)) == 6
    for frame, secret in itertools.product(frames, (b"3915", b"8206", b"meshd1_", b"secret")):
        assert secret not in frame


def test_a_message_reflected_is_refused() -> None:
    """Who sends our own message back, or that of our own side, does not know the code by that."""
    offer = _offer()
    message = bytes(unpack(offer.hello)[4])
    for sent in (message, b"A" + message[1:]):
        with pytest.raises(BadFrame):
            offer.check(pack((sent, b"\0" * 32)))


@pytest.mark.parametrize("point", POINTS)
def test_points_that_no_honest_side_sends_are_refused(point: bytes) -> None:
    """On both sides; none of them makes a key that could be foretold."""
    with pytest.raises(BadFrame):
        _offer().check(pack((b"A" + point, b"\0" * 32)))
    with pytest.raises(BadFrame):
        JoinerSide(CODE, Hello(pack((1, "47", MESH, NODE, b"B" + point))))


READERS: list[Callable[[bytes], object]] = [
    lambda data: JoinerSide(CODE, Hello(data)),
    lambda data: _offer().check(data),
    lambda data: _joiner(_offer()).open(data),
]


@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda *items: pack(items),
            st.sampled_from((0, 1, 2, "47", b"A" * 33, None)),
            st.one_of(st.binary(min_size=32, max_size=33), st.text(max_size=3), st.integers(0, 9)),
            st.binary(max_size=60),
            st.binary(min_size=32, max_size=32),
            st.binary(min_size=33, max_size=33),
        ),
        st.binary(min_size=32, max_size=32).map(lambda p: pack((b"A" + p, b"\0" * 32))),
    )
)
@settings(max_examples=60)
def test_any_bytes_are_refused(data: bytes) -> None:
    """By one of the failures that say so, whatever reads them."""
    for read in READERS:
        with pytest.raises((BadFrame, WrongCode, Impostor)):
            read(data)


def test_a_nameplate_is_two_digits() -> None:
    """What a joiner will print of an offer is nothing else."""
    message = SPAKE2_B(b"").start()
    for nameplate in ("4", "4a", "٤٧", "\x1b["):
        with pytest.raises(BadFrame):
            Hello(pack((1, nameplate, MESH, NODE, message)))


def test_codes_are_drawn_from_all_ten_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With leading zeros; `str` shows what `read_code` takes, `repr` hides the secret."""
    asked: list[int] = []

    def draw(below: int) -> int:
        asked.append(below)
        return 7_00_0008

    monkeypatch.setattr(secrets, "randbelow", draw)
    code = make_code()
    assert asked == [10**10]
    assert str(code) == "00-0700-0008"
    assert read_code(str(code)) == code
    assert "0700" not in repr(code)


@pytest.mark.parametrize("typed", ["47-3915-8206", " 4739158206 ", "47 3915 8206", "47-3915 8206"])
def test_a_code_is_read_as_people_type_it(typed: str) -> None:
    """With hyphens, blanks or neither."""
    assert read_code(typed) == CODE


@pytest.mark.parametrize(
    "typed", ["", "meshd1_abc", "47-3915-820", "47-3915-82061", "4७-3915-8206", "a7-3915-8206"]
)
def test_anything_else_is_no_code(typed: str) -> None:
    """Too short, too long, other digits."""
    assert read_code(typed) is None
