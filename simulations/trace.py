"""The one place for what a run's hash is made of: all that was sent and changed, in order."""

import hashlib
from typing import Final

_NOTED_MAX: Final = 4_096
"""Parts that are collected before the hash is fed."""


class Trace:
    """Equal runs have equal hashes."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._noted: list[bytes] = []

    def note(self, what: bytes, now: int, host: int, *parts: bytes) -> None:
        """Something happened to a host at this time."""
        self._noted.append(b"%b %d %d " % (what, now, host))
        self._noted += parts
        if len(self._noted) >= _NOTED_MAX:
            self._feed()

    def _feed(self) -> None:
        self._hash.update(b"".join(self._noted))
        self._noted.clear()

    def hexdigest(self) -> str:
        """The hash of everything so far."""
        self._feed()
        return self._hash.hexdigest()
