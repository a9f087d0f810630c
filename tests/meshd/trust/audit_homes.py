"""The one place where tests make homes with an audit log, and spoil them."""

import contextlib
import pathlib
from collections.abc import Sequence

from meshd.home import Home
from meshd.trust.audit_lines import Entry
from meshd.trust.audit_log import AuditLog
from protocol.crypto import SodiumCrypto
from tests.helpers.nodes import seed_of

OWN = SodiumCrypto(seed_of("audit"))
OTHER = SodiumCrypto(seed_of("audit", "other"))


def made(path: pathlib.Path) -> Home:
    """An empty home."""
    home = Home(path)
    home.create()
    return home


def write(home: Home, count: int, *, signed: bool = True, crypto: SodiumCrypto = OWN) -> None:
    """A run of the node that notes so many things."""
    with contextlib.closing(AuditLog(home, crypto, lambda: 1_000.0)) as log:
        for number in range(count):
            log.append([entry(number)])
        if signed:
            log.sign()


def entry(number: int, kind: str = "test.noted") -> Entry:
    """Something that happened."""
    return Entry(1_000.0 + number, kind, {"number": number})


def lines(home: Home) -> list[bytes]:
    """The lines of the newest file, with their ends."""
    return home.audit.read_bytes().splitlines(keepends=True)


def put(home: Home, changed: Sequence[bytes]) -> None:
    """Write lines as somebody does who has no key."""
    home.audit.write_bytes(b"".join(changed))
