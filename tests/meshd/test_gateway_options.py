"""What people type about who may use the gateway."""

import pathlib

import pytest

from meshd.failures import ExitCode, UserError
from meshd.gateway_options import (
    GatewayOptions,
    check_exposure,
    parse_hosts,
    parse_origins,
    parse_tls_files,
)

SECURE = GatewayOptions(tls_certificate=pathlib.Path("c.pem"), tls_key=pathlib.Path("k.pem"))
PLAIN = GatewayOptions(insecure_http=True)
NOTHING = GatewayOptions()


def refusal(options: GatewayOptions, *, is_loopback: bool = False, has_keys: bool = False) -> str:
    """The one line that says what is missing."""
    with pytest.raises(UserError) as caught:
        check_exposure(options, where="0.0.0.0:1", is_loopback=is_loopback, has_keys=has_keys)
    assert caught.value.exit_code is ExitCode.WRONG_USAGE
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_gateway_on_loopback_needs_nothing() -> None:
    """Whatever else is asked for may be."""
    for options in (NOTHING, SECURE, PLAIN, GatewayOptions(require_key=True)):
        check_exposure(options, where="127.0.0.1:1", is_loopback=True, has_keys=False)


def test_beyond_loopback_keys_and_a_word_about_tls_are_needed() -> None:
    """The line names all that is missing, and where it is."""
    for options in (SECURE, PLAIN):
        check_exposure(options, where="0.0.0.0:1", is_loopback=False, has_keys=True)
        said = refusal(options)
        assert "meshd key create" in said
        assert "--tls-cert" not in said
    said = refusal(NOTHING, has_keys=True)
    assert "meshd key create" not in said
    assert "--tls-cert FILE --tls-key FILE" in said
    assert "--insecure-http" in said
    said = refusal(NOTHING)
    for word in ("0.0.0.0:1", "meshd key create", "--tls-cert", "--gateway 127.0.0.1"):
        assert word in said


def test_all_pages_are_let_in_only_where_keys_are_needed() -> None:
    """Else every web page could use the node."""
    everybody = GatewayOptions(cors_origins=("*",))
    assert "--require-key" in refusal(everybody, is_loopback=True, has_keys=True)
    both = GatewayOptions(cors_origins=("*",), require_key=True)
    check_exposure(both, where="127.0.0.1:1", is_loopback=True, has_keys=False)
    exposed = GatewayOptions(cors_origins=("*",), insecure_http=True)
    check_exposure(exposed, where="0.0.0.0:1", is_loopback=False, has_keys=True)


def test_both_files_or_none() -> None:
    """A certificate alone is a mistake."""
    assert parse_tls_files(None, None) == (None, None)
    assert parse_tls_files("a", "b") == (pathlib.Path("a"), pathlib.Path("b"))
    for files, missing in (
        (("a", None), "--tls-key"),
        ((None, "b"), "--tls-cert"),
        (("", ""), "file"),
    ):
        with pytest.raises(UserError, match=missing) as caught:
            parse_tls_files(*files)
        assert caught.value.exit_code is ExitCode.WRONG_USAGE


@pytest.mark.parametrize(
    ("typed", "origin"),
    [
        ("https://chat.example.org", "https://chat.example.org"),
        ("HTTPS://Chat.Example.org/", "https://chat.example.org"),
        ("https://chat.example.org:443", "https://chat.example.org"),
        ("http://chat.example.org:80", "http://chat.example.org"),
        ("http://chat.example.org:443", "http://chat.example.org:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("*", "*"),
    ],
)
def test_origins_are_as_browsers_write_them(typed: str, origin: str) -> None:
    """In lower case, without the port that goes without saying."""
    assert parse_origins([typed, origin]) == (origin,)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "null",
        "a b",
        "chat.example.org",
        "https://",
        "https://a/b",
        "https://*.example.org",
        "https://a:port",
        "https://user@a",
        "https://a?x",
        "https://ü.example",
        "https://a\n",
    ],
)
def test_what_is_no_origin_is_wrong_usage(typed: str) -> None:
    """A pattern or a path would never match, and so is said."""
    with pytest.raises(UserError, match="--cors-origin"):
        parse_origins([typed])


def test_hosts() -> None:
    """Names and addresses, without a port."""
    assert parse_hosts(["Box.LAN.", "192.168.1.5", "[fd00::1]", "box.lan"]) == (
        "box.lan",
        "192.168.1.5",
        "fd00::1",
    )
    for typed in ("", "box:7701", "http://box", "a b", "*", "-", "ü"):
        with pytest.raises(UserError, match="--gateway-host"):
            parse_hosts([typed])


def test_there_are_limits() -> None:
    """As everywhere."""
    with pytest.raises(UserError, match="at most 32"):
        parse_origins([f"https://a{n}" for n in range(33)])
    with pytest.raises(UserError, match="at most 32"):
        parse_hosts([f"a{n}" for n in range(33)])
