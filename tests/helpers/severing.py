"""The one place that cuts TCP connections of others, as a router does that has lost its memory."""

import contextlib
import functools
import socket
import subprocess


def reset_streams(port: int) -> None:
    """Reset all connections that somebody has accepted on this port of loopback."""
    subprocess.run(
        ["ss", "-K", "state", "established", f"sport = :{port}"],
        check=False,
        capture_output=True,
    )


@functools.cache
def can_reset_streams() -> bool:
    """Whether this system lets us (root, `ss`, and a kernel that can)."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        contextlib.suppress(FileNotFoundError),
    ):
        accepted, _ = server.accept()
        with accepted:
            reset_streams(server.getsockname()[1])
            try:
                client.settimeout(1.0)
                return client.recv(1) != b""
            except ConnectionError:
                return True
            except TimeoutError:
                return False
    return False
