"""The one place for packets as they are on a cable: everything that passes an interface, raw.

`python -m tests.helpers.capture INTERFACE FILE` writes each packet (four bytes of length, then the
packet) until it is told to stop; `capturing` runs that inside a network namespace.
"""

import contextlib
import dataclasses
import ipaddress
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

from meshd import posix
from tests.helpers.daemons import environment
from tests.helpers.namespaces import Namespace

ALL_PROTOCOLS = 3
"""ETH_P_ALL of Linux: in both directions, whatever it is."""
ETHERNET_BYTES = 14
IPV4 = b"\x08\x00"
UDP, TCP = 17, 6
SILENCE_S = 0.5
STOP_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """One packet of IPv4."""

    protocol: int
    source: str
    to: str
    payload: bytes
    """What follows the header of IP."""


class Capture:
    """What passed, once it has ended."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        """Every frame, whole."""

    def packets(self) -> list[Packet]:
        """Those that are IPv4."""
        found: list[Packet] = []
        for frame in self.frames:
            if frame[12:ETHERNET_BYTES] != IPV4:
                continue
            header = frame[ETHERNET_BYTES:]
            source, to = (str(ipaddress.IPv4Address(header[at : at + 4])) for at in (12, 16))
            payload = header[(header[0] & 15) * 4 :]
            found.append(Packet(header[9], source, to, payload))
        return found


@contextlib.contextmanager
def capturing(place: Namespace, folder: pathlib.Path) -> Iterator[Capture]:
    """Capture while inside; complete once left."""
    file = folder / "packets"
    capture = Capture()
    process = subprocess.Popen(
        [*place.prefix, sys.executable, "-m", "tests.helpers.capture", place.interface, str(file)],
        stdout=subprocess.PIPE,
        env=environment(),
        preexec_fn=posix.dying_with_parent(),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield capture
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
    finally:
        process.kill()
        process.communicate()
    data = file.read_bytes()
    while data:
        size = int.from_bytes(data[:4], "big")
        capture.frames.append(data[4 : 4 + size])
        data = data[4 + size :]


def main() -> None:
    """Capture until SIGTERM, and then what still waits."""
    interface, file = sys.argv[1:]
    is_over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: is_over.append(number))
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as tap,
        pathlib.Path(file).open("wb") as output,
    ):
        tap.bind((interface, ALL_PROTOCOLS))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 2**20)
        tap.settimeout(SILENCE_S)
        print("ready", flush=True)
        while True:
            try:
                frame = tap.recv(2**17)
            except TimeoutError:
                if is_over:
                    return
                continue
            output.write(len(frame).to_bytes(4, "big") + frame)


if __name__ == "__main__":
    main()
