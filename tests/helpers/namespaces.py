"""The one place where tests make two machines of one: network namespaces joined by a cable."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

needs_namespaces = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and the command ip (iproute2)",
)


class Namespace:
    """A network of its own, with loopback and one end of a cable."""

    def __init__(self, name: str, address: str, interface: str) -> None:
        self.name = name
        self.address = address
        self.interface = interface

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run inside it."""
        return ["ip", "netns", "exec", self.name]

    def set_link(self, state: str) -> None:
        """Plug the cable in (`up`) or out (`down`)."""
        _ip("-n", self.name, "link", "set", self.interface, state)


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with 10.211.7.1/24 and 10.211.7.2/24; removed whatever happens."""
    tag = f"{os.getpid() % 100_000}"
    ends = [
        Namespace(f"meshd{tag}{s}", f"10.211.7.{n}", f"md{tag}{s}") for n, s in ((1, "a"), (2, "b"))
    ]
    try:
        for end in ends:
            _ip("netns", "add", end.name)
        _ip("link", "add", ends[0].interface, "type", "veth", "peer", "name", ends[1].interface)
        for end in ends:
            _ip("link", "set", end.interface, "netns", end.name)
            _ip("-n", end.name, "addr", "add", f"{end.address}/24", "dev", end.interface)
            _ip("-n", end.name, "link", "set", "lo", "up")
            end.set_link("up")
        yield ends[0], ends[1]
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "del", end.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", ends[0].interface], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
