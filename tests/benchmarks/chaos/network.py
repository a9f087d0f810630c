"""The one place for a network of five machines on one: a namespace each, cables to one switch."""

import contextlib
import ctypes
import os
import pathlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

CLONE_NEWNET = 0x40000000
LOSSES: Final = {
    "udp": ("input iifname eth0 meta l4proto udp", "output oifname eth0 meta l4proto udp"),
    "incoming": ("input iifname eth0",),
    "outgoing": ("output oifname eth0",),
}
"""What a machine can lose, and the packets that are then dropped: hook and match."""


class Machine:
    """A network of its own, with loopback and a cable to the switch."""

    def __init__(self, name: str, address: str, switch: str) -> None:
        self.name = name
        self.address = address
        self._switch = switch
        self._cable = f"c{name[-8:]}"

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run on it."""
        return ["ip", "netns", "exec", self.name]

    def plug_in(self) -> None:
        """Make it and lay its cable."""
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        far = ("peer", "name", "eth0", "netns", self.name)
        _ip("-n", self._switch, "link", "add", self._cable, "type", "veth", *far)
        _ip("-n", self._switch, "link", "set", self._cable, "master", "br0")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        self.set_cable("up")

    def set_cable(self, state: str) -> None:
        """Plug the cable in (`up`) or out (`down`), at the switch: the machine notices nothing."""
        _ip("-n", self._switch, "link", "set", self._cable, state)

    def lose(self, what: str) -> None:
        """Drop all that is `what` of LOSSES, in silence, until `lose_nothing`."""
        lines = ["table inet loss {"]
        for number, rule in enumerate(LOSSES[what]):
            hook, match = rule.split(" ", 1)
            lines.append(f"chain c{number} {{ type filter hook {hook} priority 0; {match} drop; }}")
        self._nft("-f", "-", told="\n".join([*lines, "}"]))

    def lose_nothing(self) -> None:
        """End what `lose` began."""
        self._nft("delete table inet loss")

    def _nft(self, *arguments: str, told: str = "") -> None:
        command = [*self.prefix, "nft", *arguments]
        subprocess.run(command, input=told.encode(), capture_output=True, check=True)

    def streams(self, port: int) -> list[str]:
        """Where the other ends are of all connections that were accepted there on `port`."""
        command = ["ss", "-Htn", "state", "established", f"sport = :{port}"]
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        return [line.split()[3] for line in done.stdout.splitlines()]

    def reset_stream(self, port: int, peer: str) -> None:
        """Reset one of them."""
        command = ["ss", "-K", f"sport = :{port}", "dst", peer]
        subprocess.run([*self.prefix, *command], capture_output=True, check=False)

    def enter(self) -> None:
        """From now on, this thread's new sockets are on that machine."""
        with pathlib.Path("/run/netns", self.name).open() as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")


@contextlib.contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """So many, by name, at 10.212.9.1 and so on; removed whatever happens. Needs root."""
    tag = f"mc{os.getpid() % 100_000}"
    switch = f"{tag}-switch"
    made = {
        name: Machine(f"{tag}-{name}", f"10.212.9.{number}", switch)
        for number, name in enumerate(names, 1)
    }
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for machine in made.values():
            machine.plug_in()
        yield made
    finally:
        for name in [*(machine.name for machine in made.values()), switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
