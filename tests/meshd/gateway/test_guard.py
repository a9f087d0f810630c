"""Which Host and Origin may speak to the gateway."""

import pytest

from meshd.gateway.cors import Cors
from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.guard import Guard


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:7701",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:7701",
        "127.8.9.1",
    ],
)
def test_loopback_names_are_allowed_with_any_port(host: str) -> None:
    """What can only mean this machine passes."""
    Guard().check(host, None)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:7701",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil@localhost",
        "localhost:80:90",
        "localhost:port",
        "192.168.0.5:7701",
        "0.0.0.0",
        "[::]",
        "[localhost]",
        "localhost\n",
        "\uff4cocalhost",
    ],
)
def test_every_other_host_is_refused(host: str | None) -> None:
    """DNS rebinding shows in the Host header."""
    with pytest.raises(Refusal) as caught:
        Guard().check(host, None)
    assert meaning(caught.value).status == 403


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "HTTP://[::1]:7701"]
)
def test_pages_of_this_machine_are_allowed(origin: str) -> None:
    """A page served from loopback is one of ours."""
    Guard().check("localhost", origin)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://evil.example#localhost",
        "file://localhost",
        "localhost",
        "http://localhost/path",
    ],
)
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    """A foreign page's request shows in the Origin header."""
    with pytest.raises(Refusal) as caught:
        Guard().check("localhost", origin)
    assert meaning(caught.value).status == 403


def test_extra_hosts_count_for_both_headers() -> None:
    """The owner's own names are allowed, in any case, and nothing else by that."""
    guard = Guard(["Box.lan", "192.168.0.5"])
    guard.check("box.lan:7701", "https://BOX.lan")
    guard.check("192.168.0.5:7701", None)
    with pytest.raises(Refusal):
        guard.check("other.lan", None)


@pytest.mark.parametrize(
    ("reached", "host"),
    [
        ("192.168.0.5", "192.168.0.5:7701"),
        ("::ffff:192.168.0.5", "192.168.0.5"),
        ("fd00::5", "[fd00::5]:7701"),
        ("fd00::5", "[FD00:0::5]"),
        ("fe80::5%eth0", "[fe80::5]"),
    ],
)
def test_the_address_at_which_it_was_reached_is_allowed(reached: str, host: str) -> None:
    """As a number only: no name can be rebound to it."""
    Guard().check(host, f"http://{host}", reached)
    for other in ("192.168.0.6", "[fd00::6]", "box.lan", "evil.example"):
        with pytest.raises(Refusal):
            Guard().check(other, None, reached)


@pytest.mark.parametrize("reached", [None, "", "no address", "0.0.0.0", "::"])
def test_what_is_no_address_allows_nothing_more(reached: str | None) -> None:
    """Whatever the socket says of itself."""
    with pytest.raises(Refusal):
        Guard().check("192.168.0.5", None, reached)
    Guard().check("localhost", None, reached)


def test_names_with_a_star_stand_for_one_label() -> None:
    """As in certificates."""
    guard = Guard(["*.example.org"])
    guard.check("box.example.org:7701", None)
    for host in (
        "example.org",
        "a.box.example.org",
        "boxexample.org",
        "box.example.org.evil.example",
    ):
        with pytest.raises(Refusal):
            guard.check(host, None)


def test_origins_that_are_listed_pass_and_hosts_are_judged_all_the_same() -> None:
    """An origin says whose page it is, not where the request came to."""
    guard = Guard(cors=Cors(["https://chat.example.org", "app://obsidian.md"]))
    guard.check("localhost", "https://Chat.example.org")
    guard.check("localhost", "app://obsidian.md")
    for host, origin in (
        ("chat.example.org", "https://chat.example.org"),
        ("localhost", "https://evil.example"),
        ("localhost", "null"),
    ):
        with pytest.raises(Refusal):
            guard.check(host, origin)
    Guard(cors=Cors(["*"])).check("localhost", "null")
