"""The one place for a backup: a copy of what a host has on its disk, to be restored later."""

import dataclasses
from typing import Any

from protocol.snapshot import Snapshot


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """As of one moment; the key is the same ever after."""

    incarnation: int = 0
    offers_version: int = 0
    boot: int = 0
    snapshot: Snapshot
    memory: Any = None
    """What a node of another protocol keeps."""
