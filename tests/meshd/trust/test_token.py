"""The invite's token: any text is a token or a BadToken, and a mistyped one is never a token."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.trust.token import (
    SEEDS_MAX,
    TOKEN_CHARS_MAX,
    TOKEN_PREFIX,
    BadToken,
    Token,
    decode_token,
    encode_token,
)
from protocol.fields import pack
from protocol.identity import Address
from protocol.issuing import make_founding
from tests.helpers.nodes import WALL_S, Authorities, seed_of
from tests.helpers.strategies import addresses

AUTHORITIES = Authorities("token")
INVITE_SEED = seed_of("token", "invite")
INVITE = AUTHORITIES.issue(INVITE_SEED)
ALPHABET = string.ascii_letters + string.digits + "-_"


def _token(*seeds: Address) -> Token:
    return Token(
        root=AUTHORITIES.root,
        mesh_secret=seed_of("token", "secret"),
        invite_seed=INVITE_SEED,
        invite=INVITE,
        seeds=seeds or (Address("10.0.0.1", 7700), Address("fd00::1", 7700)),
    )


TEXT = encode_token(_token())


@given(st.lists(addresses, min_size=1, max_size=SEEDS_MAX).map(tuple))
def test_tokens_survive(seeds: tuple[Address, ...]) -> None:
    """decode(encode(t)) == t, and it is the mesh of the root key."""
    token = _token(*seeds)
    text = encode_token(token)
    assert decode_token(text) == token
    assert decode_token(text).mesh == AUTHORITIES.mesh
    assert set(text.removeprefix(TOKEN_PREFIX)) <= set(ALPHABET)


def test_the_largest_token_is_within_the_limit() -> None:
    """Eight of the longest host names and the largest invite fit."""
    seeds = tuple(Address(f"{index}" + ".a" * 126, 65535) for index in range(SEEDS_MAX))
    text = encode_token(_token(*seeds))
    assert len(text) <= TOKEN_CHARS_MAX
    assert decode_token(text).seeds == seeds


@given(st.text(max_size=100) | st.text(ALPHABET, max_size=100).map(TOKEN_PREFIX.__add__))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """BadToken and nothing else, whatever was pasted."""
    with pytest.raises(BadToken):
        decode_token(text)


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_one_changed_character_is_noticed(place: int, letter: str) -> None:
    """In the text itself: no other spelling of the same bytes is a token either."""
    changed = TEXT[:place] + letter + TEXT[place + 1 :]
    if changed != TEXT and not letter.isspace():
        with pytest.raises(BadToken):
            decode_token(changed)


def test_every_single_letter_counts() -> None:
    """Each place, each letter of the alphabet, and those that base64 decoders overlook."""
    for place in range(len(TEXT)):
        for letter in {*"AQgw-_+/=9z", TEXT[place].swapcase()} - {TEXT[place]}:
            with pytest.raises(BadToken):
                decode_token(TEXT[:place] + letter + TEXT[place + 1 :])


@given(st.integers(0, len(TEXT) - 1))
def test_a_cut_token_is_noticed(length: int) -> None:
    """Half a line copied is no token."""
    with pytest.raises(BadToken):
        decode_token(TEXT[:length])


def test_blanks_and_line_breaks_of_copying_do_not_matter() -> None:
    """A terminal breaks long lines."""
    assert decode_token(f"  {TEXT[:70]}\r\n  {TEXT[70:]}\n") == _token()


def test_padding_and_additions_are_no_token() -> None:
    """A token has one spelling."""
    for text in (TEXT + "=", TEXT + "A", TEXT + "====", TOKEN_PREFIX + TEXT):
        with pytest.raises(BadToken):
            decode_token(text)


def test_an_endless_text_is_refused_by_its_length() -> None:
    """Nothing of it is decoded."""
    with pytest.raises(BadToken, match="too long"):
        decode_token(TOKEN_PREFIX + "A" * TOKEN_CHARS_MAX)


def test_the_words_say_what_is_wrong() -> None:
    """Each kind of mistake has its own."""
    for text, words in (
        ("", "begin with meshd1_"),
        ("ghp_abc", "begin with meshd1_"),
        (TOKEN_PREFIX + "ü", "characters that no token has"),
        (TEXT[:-1], "missing or mistyped"),
    ):
        with pytest.raises(BadToken, match=words):
            decode_token(text)


def _sealed(*fields: object) -> str:
    """A token text whose sum is right, around any content."""
    import base64

    from meshd.trust import token

    body = pack(fields)
    data = body + token._sum(body)
    return TOKEN_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _fields(**changed: object) -> tuple[object, ...]:
    fields: dict[str, object] = {
        "root": AUTHORITIES.root,
        "secret": seed_of("token", "secret"),
        "seed": INVITE_SEED,
        "invite": INVITE.wire,
        "seeds": (("10.0.0.1", 7700),),
    }
    return tuple({**fields, **changed}.values())


def test_later_versions_may_add_fields() -> None:
    """What stands behind the last known field is ignored."""
    assert decode_token(_sealed(*_fields(), "more")) == _token(Address("10.0.0.1", 7700))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"root": b"short"}, "another version"),
        ({"secret": "text"}, "another version"),
        ({"invite": b"x" * 100}, "another version"),
        ({"seed": b"x" * 32}, "do not belong together"),
        ({"invite": AUTHORITIES.founding.wire}, "do not belong together"),
        ({"seeds": ()}, "no member to ask"),
        ({"seeds": (("10.0.0.1", 0),)}, "another version"),
        ({"seeds": (("0.0.0.0", 1),)}, "impossible address"),
        ({"seeds": (("", 1),)}, "impossible address"),
        ({"seeds": (("a b", 1),)}, "impossible address"),
        ({"seeds": (("10.0.0.1", 1),) * (SEEDS_MAX + 1)}, "another version"),
        ({"seeds": ("10.0.0.1",)}, "another version"),
    ],
)
def test_content_that_makes_no_sense_is_refused(changed: dict[str, object], words: str) -> None:
    """A right sum is no reason to believe what it covers."""
    with pytest.raises(BadToken, match=words):
        decode_token(_sealed(*_fields(**changed)))


def test_a_tokens_secrets_are_not_shown() -> None:
    """Printing or logging a Token gives neither the mesh secret nor the invite's key away."""
    shown = repr(_token())
    assert repr(INVITE_SEED) not in shown
    assert repr(seed_of("token", "secret")) not in shown


def test_the_founding_invite_is_no_leave_to_join() -> None:
    """It is used up and expired from the beginning, so a token made from it admits nobody."""
    invite, _ = make_founding(
        AUTHORITIES.root_seed,
        AUTHORITIES.founder,
        AUTHORITIES.mesh,
        invite_seed=INVITE_SEED,
        owner="founder",
        now_s=WALL_S,
    )
    assert (invite.uses, invite.expires_at_s) == (1, WALL_S)
