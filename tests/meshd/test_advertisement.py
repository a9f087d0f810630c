"""What offers mean: they survive, and what others offer is harmless or nothing."""

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd import advertisement
from protocol.fields import pack
from protocol.speeds import Speed
from protocol.statements import OFFER_VALUE_BYTES_MAX, is_valid_offer_key
from runtimes.base import ModelCard
from tests.meshd.test_payloads import _msgpack

plain = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=60)
numbers = st.integers(0, 2**63 - 1)
cards = st.builds(
    ModelCard,
    name=plain.filter(bool),
    content_hash=plain,
    runtime=plain,
    architecture=plain,
    parameters=numbers,
    quantization=plain,
    size_bytes=numbers,
    context_tokens=numbers,
    tasks=st.sampled_from([(), ("generate",), ("embed",), ("generate", "embed", "rerank")]),
)
CARD = ModelCard(name="demo", content_hash="ab" * 32, runtime="llama")


@given(cards)
def test_models_survive(card: ModelCard) -> None:
    """decode(encode(card)) == card."""
    assert advertisement.decode_model(advertisement.encode_model(card)) == card
    assert advertisement.decode_speed(advertisement.encode_model(card)) is None


@given(cards, st.builds(Speed, *[st.integers(1_000, 60 * 10**9)] * 2))
def test_speeds_survive_beside_their_models(card: ModelCard, speed: Speed) -> None:
    """Both are read from the one offer."""
    value = advertisement.encode_model(card, speed)
    assert advertisement.decode_model(value) == card
    assert advertisement.decode_speed(value) == speed


def test_what_a_model_is_made_for_may_be_unknown() -> None:
    """An earlier version does not say it, a later one may say more, and a hostile one anything."""

    def tasks(**told: object) -> object:
        card = advertisement.decode_model(pack({"name": "demo", **told}))
        return card and card.tasks

    assert tasks() == ("generate",)
    assert tasks(tasks=("paint", "embed", 5, None)) == ("embed",)
    assert tasks(tasks=()) == ()
    assert tasks(tasks="embed") is None
    assert tasks(tasks={"embed": 1}) is None


@given(st.text(max_size=300))
def test_a_models_key_is_short_and_its_own(name: str) -> None:
    """Valid as the key of an offer, whatever the name is."""
    key = advertisement.model_key(name)
    assert is_valid_offer_key(key)
    assert len(key) == 22
    assert key != advertisement.model_key(name + "x")


def test_an_ordinary_card_fits_an_offer() -> None:
    """With a long name and every field set."""
    card = ModelCard(
        name="unsloth/Qwen3-Coder-480B-A35B-Instruct-1M-GGUF:UD-Q4_K_XL",
        content_hash="f" * 64,
        runtime="llama",
        architecture="qwen3moe",
        parameters=480_000_000_000,
        quantization="Q4_K_M",
        size_bytes=2**40,
        context_tokens=2**20,
    )
    assert len(advertisement.encode_model(card)) <= OFFER_VALUE_BYTES_MAX // 2


@given(st.binary(max_size=700) | _msgpack)
def test_any_offer_is_harmless(value: bytes) -> None:
    """Nothing raises; what comes out is plain JSON."""
    card = advertisement.decode_model(value)
    assert card is None or card.name
    for found in (advertisement.decode_map(value), advertisement.decode_labels(value)):
        json.dumps(found, allow_nan=False).encode()


def _model(**changed: object) -> bytes:
    fields: dict[str, object] = {"name": "demo", "content_hash": "ab", "runtime": "llama"}
    return pack({**fields, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": None},
        {"name": b"demo"},
        {"name": "x" * 201},
        {"name": "red \x1b[31m"},
        {"name": "two\nlines"},
        {"name": "right-to-left \u202e"},
        {"parameters": -1},
        {"parameters": True},
        {"size_bytes": 1.5},
        {"context_tokens": 2**63},
        {"context_tokens": "4096"},
    ],
)
def test_a_model_that_makes_no_sense_is_none(changed: dict[str, object]) -> None:
    """Wrong types, sizes and terminal escapes: the model is not listed."""
    assert advertisement.decode_model(_model()) is not None
    assert advertisement.decode_model(_model(**changed)) is None


def test_an_unprintable_detail_counts_as_unknown() -> None:
    """The model can be used; what was said of it is left out."""
    card = advertisement.decode_model(_model(architecture="\x07", quantization="Q4"))
    assert card is not None
    assert (card.architecture, card.quantization) == ("", "Q4")


def test_later_versions_may_add_fields_to_a_model() -> None:
    """They are ignored."""
    assert advertisement.decode_model(_model(license="mit")) is not None


@pytest.mark.parametrize(
    ("hostile", "kept"),
    [
        ({"a": b"bytes"}, {}),
        ({"a": {"b": b"bytes"}}, {"a": {}}),
        ({"a": {b"bytes": 1}}, {"a": {}}),
        ({"a": math.nan, "b": math.inf, "c": 1.5}, {"c": 1.5}),
        ({"a": "\x1b]0;title\x07"}, {}),
        ({"\x1b[2J": "x"}, {}),
        ({"a": ["x", "\n", b"y", 3, None]}, {"a": ["x", 3]}),
        ({"a": msgpack.Timestamp(1, 0)}, {}),
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, {"a": {"b": {"c": {}}}}),
        ({"a": True, "b": None, "c": -(2**63)}, {"a": True, "c": -(2**63)}),
    ],
)
def test_only_plain_things_of_a_map_stay(hostile: dict[Any, Any], kept: dict[str, Any]) -> None:
    """One bad value costs that value, not the rest."""
    assert advertisement.decode_map(msgpack.packb(hostile)) == kept


def test_deep_nesting_is_cut_and_costs_nothing() -> None:
    """700 bytes of nested arrays neither recurse nor raise."""
    for depth in (100, 500, 690):
        value = b"\x81\xa1a" + b"\x91" * depth + b"\x01"
        json.dumps(advertisement.decode_map(value))


@pytest.mark.parametrize("value", [b"", b"\x01", pack((1, 2)), b"\xc1", b"\xdf\xff\xff\xff\xff"])
def test_what_is_no_map_is_empty(value: bytes) -> None:
    """Also a map that claims four billion entries."""
    assert advertisement.decode_map(value) == {}


def test_labels_are_text() -> None:
    """Others may not put objects where apps expect words."""
    value = advertisement.encode_map({"zone": "attic", "gpu": 1, "x": ["y"]})
    assert advertisement.decode_labels(value) == {"zone": "attic"}
