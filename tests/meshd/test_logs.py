"""Log lines: one event a line, readable and harmless, and never in the way of the daemon."""

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from meshd import logs

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (debug|info|warning|error) +[a-z_.]+( |$)")


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Whatever a test configures is gone after it."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for room in ("meshd", "runtimes"):
        logging.getLogger(room).setLevel(logging.NOTSET)


def test_what_runtimes_report_is_heard_and_what_libraries_chat_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A download's progress is an info line of ours; a library has to warn to be heard."""
    logs.configure()
    logging.getLogger("runtimes.models.hub_model").info("downloading: 50%%")
    logging.getLogger("httpx").info("HTTP request")
    captured = capsys.readouterr().err
    assert "downloading: 50%" in captured
    assert "HTTP request" not in captured


def test_a_line_is_time_level_event_and_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, none on standard output."""
    logs.configure()
    structlog.get_logger().info("member.changed", name="anna", state="alive", why="a b")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert LINE.match(captured.err)
    assert captured.err.endswith(" info    member.changed name=anna state=alive why='a b'\n")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("error", ["error"]),
        ("nonsense", ["info", "warning", "error"]),
        (None, ["info", "warning", "error"]),
    ],
)
def test_meshd_log_chooses_the_level(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: str | None,
    said: list[str],
) -> None:
    """Any case; nonsense counts as the default."""
    if wanted is None:
        monkeypatch.delenv("MESHD_LOG", raising=False)
    else:
        monkeypatch.setenv("MESHD_LOG", wanted)
    logs.configure()
    log = structlog.get_logger()
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)("event.name")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == said


@given(st.text(max_size=40))
def test_no_value_breaks_a_line_or_a_terminal(value: str) -> None:
    """Control characters are written out; what came from a peer cannot forge a line."""
    event = {"timestamp": "t", "level": "info", "event": "e", "reason": value}
    line = logs._one_line(None, "info", dict(event))
    assert line.startswith("t info    e reason=")
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_a_trace_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug is said with where it is."""
    logs.configure()
    try:
        raise LookupError("a bug")
    except LookupError:
        structlog.get_logger().exception("peer.connection_failed")
    lines = capsys.readouterr().err.splitlines()
    assert LINE.match(lines[0])
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "LookupError: a bug"


def test_a_reader_that_went_away_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meshd up 2>&1 | head`: the daemon lives on."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs.configure()
    log = structlog.get_logger()
    monkeypatch.setattr(sys, "stderr", Gone())
    log.error("first.line")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    log.error("second.line")


def test_libraries_speak_up_only_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    """On the default level; what they say goes to standard error too."""
    logs.configure()
    logging.getLogger("zeroconf").info("chatter")
    logging.getLogger("zeroconf").warning("trouble")
    err = capsys.readouterr().err
    assert "chatter" not in err
    assert "trouble" in err
