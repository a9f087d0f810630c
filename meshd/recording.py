"""The one place for the file in which a node's run is written down, to be replayed afterwards.

`protocol/recording.py` says what is in it, `meshd sim replay` repeats it. The file is its owner's
only: it holds no key, but what the mesh's members say to each other.
"""

import contextlib
import os
import pathlib
import platform
import stat
from typing import Final

import structlog

from meshd import __version__
from meshd.failures import UserError
from protocol.assembly import NodeConfig
from protocol.crypto import Crypto
from protocol.effects import Effect
from protocol.events import Event
from protocol.node import Node
from protocol.recorder import Recorder
from protocol.recording import LINE_BYTES_MAX, MARKS_MAX

log = structlog.get_logger()

BYTES_MAX: Final = 2**30
"""A recording ends there; it was not meant to fill a disk."""


class Recording:
    """An open recording. What goes wrong with its file ends the recording, never the daemon."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises UserError when the file cannot be written."""
        try:
            self._file = os.fdopen(
                _open_for_owner(path), "w", buffering=1, encoding="ascii", newline="\n"
            )
        except OSError as error:
            raise UserError(f"cannot record to {path}: {error.strerror}") from error
        self._written = 0
        self._recorder = Recorder(self._write)

    def begin(self, config: NodeConfig, crypto: Crypto, random_seed: int) -> Crypto:
        """A node is about to be made of all this; returns the Crypto that it must get instead."""
        if self._file.closed:
            return crypto
        return self._recorder.begin(
            config,
            crypto,
            random_seed,
            meshd=__version__,
            python=platform.python_version(),
        )

    def handle(self, node: Node, event: Event, now: int) -> list[Effect]:
        """As `node.handle`, written down."""
        if self._file.closed:
            return node.handle(event, now)
        return self._recorder.handle(node, event, now)

    def _write(self, line: str) -> None:
        if self._file.closed:
            return
        if len(line) > LINE_BYTES_MAX or line.count('"') + line.count(",") > MARKS_MAX:
            self._end("this node knows too much")
            return
        self._written += len(line)
        try:
            self._file.write(line)
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if self._written > BYTES_MAX:
            self._end(f"it has {BYTES_MAX} bytes")

    def _end(self, reason: str) -> None:
        log.warning("recording.ended", reason=reason)
        self.close()

    def close(self) -> None:
        """Finish the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def _open_for_owner(path: pathlib.Path) -> int:
    """Also a file that was there before is its owner's only from now on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.name == "posix" and stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
