"""The one place that sets up logging: events with keys and values, on standard error.

Never a prompt, an answer, a key or a token, on any level.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, Final


@contextlib.contextmanager
def _rich_is_absent() -> Iterator[None]:
    """Inside, rich cannot be imported, unless it already is.

    structlog works without rich, but loads it where it can, for tracebacks that we never show:
    5 MB of a daemon's memory. Whoever loads logs.py before anything of structlog saves them.
    """
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's word for: absent
    try:
        yield
    finally:
        del sys.modules["rich"]


with _rich_is_absent():
    import structlog

_LEVELS: Final = ("debug", "info", "warning", "error")


class _Stderr:
    """Writes lines to standard error; a reader that went away never ends the daemon."""

    def __init__(self, *names: str) -> None:
        del names  # structlog passes the logger's name; lines do not carry it

    def msg(self, line: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def configure() -> None:
    """Send structlog's and the standard library's events to standard error.

    `MESHD_LOG` chooses the level: debug, info (default), warning or error.
    """
    wanted = os.environ.get("MESHD_LOG", "info").lower()
    level = getattr(logging, wanted.upper()) if wanted in _LEVELS else logging.INFO
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _one_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=max(level, logging.WARNING) if level > logging.DEBUG else level,
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
        force=True,
    )
    # Ours through the standard library: what runtimes report (a download, a worker) is wanted;
    # what libraries report only when it is a warning.
    for room in ("meshd", "runtimes"):
        logging.getLogger(room).setLevel(level)


def _one_line(logger: object, method: str, event: structlog.typing.EventDict) -> str:
    """`time level event key=value ...`; values with blanks are quoted, so a line stays a line."""
    del logger, method
    time, level, name = event.pop("timestamp"), event.pop("level"), event.pop("event")
    trace = event.pop("exception", None)
    pairs = " ".join(f"{key}={_value(value)}" for key, value in event.items())
    line = f"{time} {level:<7} {name} {pairs}".rstrip()
    return f"{line}\n{trace}" if trace else line


def _value(value: Any) -> str:  # noqa: ANN401  # whatever is logged
    text = str(value)
    return text if text.isalnum() else ascii(text) if not text.isascii() else repr(text)
