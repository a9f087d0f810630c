"""What people type: every good value is understood, every other is one line and exit code 2."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.failures import ExitCode, UserError
from meshd.options import (
    DURATION_S_MAX,
    LABELS_BYTES_MAX,
    LABELS_MAX,
    UPSTREAMS_MAX,
    format_host_port,
    name_from_host,
    parse_duration_s,
    parse_host_port,
    parse_labels,
    parse_models,
    parse_name,
    parse_size,
    parse_upstreams,
)

PORTS = st.integers(0, 65_535)


def _refuses(parse: object, value: object) -> str:
    """The message with which `parse` refuses `value`: one line, printable, wrong usage."""
    assert callable(parse)
    with pytest.raises(UserError) as caught:
        parse(value)
    assert caught.value.exit_code is ExitCode.WRONG_USAGE
    assert caught.value.message.isprintable()
    return caught.value.message


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), PORTS)
def test_addresses_survive_the_round_trip(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """Writing and reading an address gives the same host and port."""
    assert parse_host_port(format_host_port(str(address), port)) == (str(address), port)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7701", ("127.0.0.1", 7701)),
        ("[::]:7700", ("::", 7700)),
        ("[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
        ("my-host.example.:65535", ("my-host.example.", 65535)),
        ("a:1", ("a", 1)),
    ],
)
def test_good_addresses(text: str, expected: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6, with any port."""
    assert parse_host_port(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":7700", "host", "host:", "host:-1", "host:65536", "host:1e3", "host: 1"),
        *("host:\N{ARABIC-INDIC DIGIT ONE}", "::1:7700", "[::1]", "[::1]7700", "[]:1", "[x]:1"),
        *("[::1%]:1", "[::1%a b]:1", "[1.2.3.4]:1", "1.2.3:1", "256.1.1.1:1", "-a:1", "a b:1"),
        *("ä:1", "http://a:1", "a" * 300 + ":1", "\n:1"),
    ],
)
def test_bad_addresses(text: str) -> None:
    """Each is refused with a line that names the option."""
    assert "address" in _refuses(parse_host_port, text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_line(text: str) -> None:
    """No text raises anything but wrong usage."""
    try:
        host, port = parse_host_port(text)
    except UserError:
        _refuses(parse_host_port, text)
    else:
        assert host
        assert 0 <= port <= 65_535


@pytest.mark.parametrize("name", ["a", "0", "-", "gaming-pc", "x" * 63])
def test_good_names(name: str) -> None:
    """Lower-case letters, digits and dashes."""
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "a b", "ä", "a\n", "x" * 64])
def test_bad_names(name: str) -> None:
    """Everything else is refused."""
    assert "a-z" in _refuses(parse_name, name)


@given(st.text())
def test_every_host_has_a_name(host: str) -> None:
    """Whatever the host is called, the node's default name is valid."""
    assert parse_name(name_from_host(host))


@pytest.mark.parametrize(
    ("host", "name"), [("Desk.local", "desk"), ("My_PC", "my-pc"), ("", "node"), ("ä", "node")]
)
def test_names_resemble_hosts(host: str, name: str) -> None:
    """People recognise their machine."""
    assert name_from_host(host) == name


def test_labels_are_pairs() -> None:
    """A value may be empty and may contain the sign again."""
    assert parse_labels(["gpu=yes", "a/b.c=1=2", "empty="]) == {
        "gpu": "yes",
        "a/b.c": "1=2",
        "empty": "",
    }


@pytest.mark.parametrize(
    "labels",
    [
        ["gpu"],
        ["=x"],
        ["a b=x"],
        ["-a=x"],
        ["k" * 64 + "=x"],
        ["a=\x1b[2J"],
        ["a=\udcff"],
        ["a=1", "a=2"],
        [f"k{number}=x" for number in range(LABELS_MAX + 1)],
        ["a=" + "x" * LABELS_BYTES_MAX],
    ],
)
def test_bad_labels(labels: list[str]) -> None:
    """Each is refused with a line about labels."""
    assert "label" in _refuses(parse_labels, labels)


def test_models_are_kept_in_order_and_once() -> None:
    """Naming a model twice offers it once."""
    assert parse_models(["b.gguf", "demo", "b.gguf"]) == ("b.gguf", "demo")


@pytest.mark.parametrize(
    "models", [[""], ["none", "demo"], ["\udcff"], [str(number) for number in range(33)]]
)
def test_bad_models(models: list[str]) -> None:
    """Each is refused with a line about models."""
    assert "model" in _refuses(parse_models, models)


def test_upstreams_are_kept_in_order_and_once() -> None:
    """However it is written, one upstream is one."""
    texts = ["http://b:8000", "http://127.0.0.1:11434/v1/", "http://b:8000/v1", "HTTP://B:8000"]
    assert parse_upstreams(texts) == ("http://b:8000", "http://127.0.0.1:11434")


@pytest.mark.parametrize(
    "upstreams",
    [
        [""],
        ["127.0.0.1:11434"],
        ["ftp://h"],
        ["http://"],
        ["http://h:99999"],
        ["http://u:secret@h"],
        ["http://h/?key=secret"],
        [f"http://h:{port}" for port in range(1, UPSTREAMS_MAX + 2)],
    ],
)
def test_bad_upstreams(upstreams: list[str]) -> None:
    """Each is refused with a line about upstreams that repeats no password."""
    message = _refuses(parse_upstreams, upstreams)
    assert "upstream" in message
    assert "secret" not in message


@given(st.integers(1, DURATION_S_MAX))
def test_seconds_are_understood(duration_s: int) -> None:
    """Any allowed number of seconds can be written."""
    assert parse_duration_s(f"{duration_s}s") == duration_s


@pytest.mark.parametrize(
    ("text", "duration_s"), [("30m", 1_800), ("1h", 3_600), ("2d", 172_800), ("366d", 31_622_400)]
)
def test_durations_have_units(text: str, duration_s: int) -> None:
    """Minutes, hours and days."""
    assert parse_duration_s(text) == duration_s


@pytest.mark.parametrize("text", ["", "1", "h", "0s", "-1h", "1.5h", "1w", "1h30m", "367d", "1 h"])
def test_bad_durations(text: str) -> None:
    """Each is refused with a line that shows the form or the range."""
    assert "duration" in _refuses(parse_duration_s, text)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_line(text: str) -> None:
    """No text raises anything but wrong usage."""
    try:
        assert 0 < parse_duration_s(text) <= DURATION_S_MAX
    except UserError:
        _refuses(parse_duration_s, text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1MB", 10**6), ("8GB", 8 * 10**9), ("1.5 tb", 1_500 * 10**9), ("0.001GB", 10**6)],
)
def test_sizes_are_read_with_their_unit(text: str, size_bytes: int) -> None:
    """As disks and people count: powers of ten, in any case."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "8", "GB", "8 KB", "8GiB", "-1GB", "0.5MB", "1e3GB", "9999999TB", "8GB\n"]
)
def test_other_sizes_are_refused(text: str) -> None:
    """Too small ones, too."""
    assert "such as 8GB" in _refuses(parse_size, text)
