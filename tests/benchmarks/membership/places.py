"""The one place for where daemons run: this machine, or network namespaces that can be cut."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from tests.helpers.namespaces import Namespace, two_namespaces

_SILENCE: Final = """
table inet silence {{
    chain input {{
        type filter hook input priority 0
        ip saddr {address} drop
    }}
}}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What a command begins with there, and the address to listen on."""

    prefix: Sequence[str] = ()
    address: str = "127.0.0.1"


class CannotRun(Exception):
    """This machine has not what the case needs; the text says what."""


def check_namespaces(*more: str) -> None:
    """Raise CannotRun unless namespaces can be made and the commands `more` are there."""
    missing = [command for command in ("ip", *more) if shutil.which(command) is None]
    if missing:
        raise CannotRun(f"not installed: {', '.join(missing)} (packages iproute2, nftables)")
    if os.geteuid() != 0:
        raise CannotRun("network namespaces need root")


@contextlib.contextmanager
def one_namespace() -> Iterator[Place]:
    """A loopback that nobody else uses, so that its counters are the mesh's own."""
    check_namespaces()
    name = f"meshd{os.getpid() % 100_000}i"
    _run(["ip", "netns", "add", name])
    try:
        _run(["ip", "-n", name, "link", "set", "lo", "up"])
        yield Place(("ip", "netns", "exec", name))
    finally:
        _run(["ip", "netns", "del", name])


class Cable:
    """Two places on one cable, which can go silent: no refusal, no link down, nothing."""

    def __init__(self, ends: tuple[Namespace, Namespace]) -> None:
        self._ends = ends
        self.near, self.far = (Place(tuple(end.prefix), end.address) for end in ends)

    def cut(self) -> None:
        """Each end drops what comes from the other; nobody's own sending fails."""
        for end, other in (self._ends, self._ends[::-1]):
            _run([*end.prefix, "nft", "-f", "-"], _SILENCE.format(address=other.address))

    def heal(self) -> None:
        """Let everything pass again."""
        for end in self._ends:
            _run([*end.prefix, "nft", "delete table inet silence"])


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """Two namespaces; removed whatever happens. Raises CannotRun."""
    check_namespaces("nft")
    with two_namespaces() as ends:
        yield Cable(ends)


def _run(command: Sequence[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().partition("\n")[0]
        raise CannotRun(f"{' '.join(command)}: {said}")
