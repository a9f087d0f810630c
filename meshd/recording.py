"""The one place for writing down what happens to a node, to be looked at afterwards.

One JSON object a line: `{"now": nanoseconds, "event": type, ...fields}`, bytes in hex. To repeat a
run exactly, its beginning (keys, seed, memory) has to be known too; that comes with the replay.
"""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any, Final

import structlog

from meshd.failures import UserError
from protocol.events import Event
from protocol.identity import Address

log = structlog.get_logger()

BYTES_MAX: Final = 2**30
"""A recording ends there; it was not meant to fill a disk."""


class Recording:
    """An open recording. What goes wrong with its file ends the recording, never the daemon."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises UserError when the file cannot be written."""
        try:
            self._file = path.open("w", buffering=1, encoding="ascii")
        except OSError as error:
            raise UserError(f"cannot record to {path}: {error.strerror}") from error
        self._written = 0

    def note(self, event: Event, now: int) -> None:
        """Write one event."""
        if self._file.closed:
            return
        fields = {
            field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event)
        }
        line = {"now": now, "event": type(event).__name__, **fields}
        text = json.dumps(line, separators=(",", ":")) + "\n"
        self._written += len(text)
        try:
            self._file.write(text)
        except OSError as error:
            log.error("recording.ended", reason=error.strerror or str(error))
            self.close()
            return
        if self._written > BYTES_MAX:
            log.warning("recording.ended", reason=f"it has {BYTES_MAX} bytes")
            self.close()

    def close(self) -> None:
        """Finish the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def _plain(value: object) -> Any:  # noqa: ANN401  # JSON's own domain
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value
