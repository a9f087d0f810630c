"""Which Host and Origin may speak to the gateway."""

import pytest

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
