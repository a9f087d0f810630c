"""Upstreams' URLs: good ones have one canonical text, all others one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.openai.address import read_url


@pytest.mark.parametrize(
    ("text", "url", "first_base"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434", "/v1"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434", "/v1"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080", "/v1"),
        ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080", "/v1"),
        ("HTTPS://API.example.com/openai/v1", "https://api.example.com/openai", "/openai/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai", "/v1beta/openai/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000", "/v1"),
        ("http://gpu-box:80", "http://gpu-box", "/v1"),
    ],
)
def test_good_urls(text: str, url: str, first_base: str) -> None:
    """With and without /v1 and slashes it is the same upstream."""
    address = read_url(text)
    assert (address.url, address.bases[0]) == (url, first_base)
    assert read_url(address.url) == address


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [("http://localhost:1", True), ("http://127.9.9.9", True), ("http://[::1]:2", True),
     ("http://10.0.0.1", False), ("http://loop.example", False)],
)  # fmt: skip
def test_loopback_is_known(url: str, is_loopback: bool) -> None:
    """By name and by both families of addresses."""
    assert read_url(url).is_loopback is is_loopback


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "127.0.0.1:11434",
            "localhost:11434",
            "ftp://h",
            "http://",
            "http:///v1",
            "http://:1",
        ),
        *("http://h:0", "http://h:65536", "http://h:x", "http://h/a b", "http://h/\n", "http://ä"),
        *(
            "http://h?x=1",
            "http://h#x",
            "http://h/?",
            "http://[::1",
            "http://[1.2.3.4]",
            "http://-h",
        ),
        *("http://[fe80::1%25eth0]:1", "http://h/../%2e", "http://h//v1", "http://" + "h" * 600),
        *("unix:///tmp/x", "http://h\t/", "http://u:secret@h", "http://secret@h"),
    ],
)
def test_bad_urls(text: str) -> None:
    """Each is one line; a password in it is not repeated."""
    with pytest.raises(RuntimeFailure) as failed:
        read_url(text)
    assert failed.value.code == "invalid_model"
    assert failed.value.message.isprintable()
    assert "secret" not in failed.value.message


@given(st.text(max_size=30), st.sampled_from(["", "http://", "https://h", "http://["]))
def test_any_text_is_an_address_or_a_line(text: str, before: str) -> None:
    """Nothing else is raised, and what is read can go into a request line and a header."""
    try:
        address = read_url(before + text)
    except RuntimeFailure:
        return
    line = address.authority + address.path
    assert line.isascii()
    assert line.isprintable()
    assert " " not in line
