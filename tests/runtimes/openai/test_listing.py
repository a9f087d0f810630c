"""What is read out of an upstream's list of models."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.openai.listing import MODELS_MAX, ListedModel, Listing, read_listing


def read(*rows: object) -> Listing:
    """A listing of these rows."""
    return read_listing(json.dumps({"data": rows}).encode(), "/v1")


def test_what_servers_tell_is_taken() -> None:
    """The sizes that llama-server, vLLM and LM Studio state."""
    meta = {"n_ctx_train": 8192, "n_params": 1000, "size": 2000, "n_embd": 4}
    listing = read(
        {"id": "llama", "owned_by": "llamacpp", "meta": meta},
        {"id": "vllm", "max_model_len": 4096},
        {"id": "studio", "max_context_length": 32768},
        {"id": "bare", "meta": None, "max_model_len": True},
    )
    assert listing.software == "llama-server"
    assert not listing.takes_one
    assert listing.models == (
        ListedModel(id="llama", context_tokens=8192, parameters=1000, size_bytes=2000),
        ListedModel(id="vllm", context_tokens=4096),
        ListedModel(id="studio", context_tokens=32768),
        ListedModel(id="bare"),
    )


def test_llama_cpp_server_takes_one_request_at_a_time() -> None:
    """It is known by its owner, and disturbed by a second request."""
    assert read({"id": "x", "owned_by": "me"}).takes_one


def test_names_that_cannot_be_passed_on_are_left_out() -> None:
    """Too long, unprintable, none at all; the others stay, each once."""
    odd = [
        {"id": name} for name in ("", "a\nb", "\x1b[2J", "\ud800", "x" * 129, "é" * 128 + "x", 7)
    ]
    listing = read({"id": "a"}, {"id": "a"}, *odd, {}, None, "b", {"id": "c"})
    assert [model.id for model in listing.models] == ["a", "c"]
    assert listing.left_out == len(odd) + 3


def test_models_have_a_limit() -> None:
    """The first so many; how many are left out is known."""
    listing = read(*({"id": f"m{number}"} for number in range(MODELS_MAX + 5)))
    assert (len(listing.models), listing.left_out) == (MODELS_MAX, 5)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"data":1}', b"[" * 10**5, b"\xff"]
)
def test_what_is_no_list_is_crashed(body: bytes) -> None:
    """One failure for all."""
    with pytest.raises(RuntimeFailure) as failed:
        read_listing(body, "/v1")
    assert failed.value.code == "crashed"


def test_an_upstream_may_have_no_models() -> None:
    """Ollama says null then."""
    assert read_listing(b'{"object":"list","data":null}', "/v1").models == ()
    assert read_listing(b'{"data":[]}', "/v1").models == ()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_listing_or_a_failure(body: bytes) -> None:
    """Nothing else is raised."""
    for whole in (body, b'{"data":[{"id":' + body + b"}]}"):
        try:
            read_listing(whole, "/v1")
        except RuntimeFailure:
            continue
