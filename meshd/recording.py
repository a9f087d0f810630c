"""The one place for writing down what happens to a node, so that a run can be repeated exactly.

One JSON object a line: `{"now": nanoseconds, "event": type, ...fields}`, bytes in hex.
"""

import dataclasses
import json
import pathlib
from typing import Any

from meshd.failures import UserError
from protocol.events import Event
from protocol.identity import Address


class Recording:
    """An open recording."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises UserError when the file cannot be written."""
        try:
            self._file = path.open("w", encoding="ascii")
        except OSError as error:
            raise UserError(f"cannot record to {path}: {error.strerror}") from error

    def note(self, event: Event, now: int) -> None:
        """Write one event."""
        fields = {
            field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event)
        }
        line = {"now": now, "event": type(event).__name__, **fields}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Finish the file."""
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
