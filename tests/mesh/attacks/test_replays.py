"""Who records what passes and sends it again: to the same run, after a restart of the receiver,
and after restarts of both ends.
"""

import contextlib
import pathlib
import socket
from collections.abc import Iterator

import pytest

from protocol.codec import encode_datagram, encode_rider
from protocol.envelope import CHALLENGE_BYTES
from protocol.identity import Address
from protocol.messages import Gossip, Ping
from protocol.statements import make_alive
from tests.helpers.daemons import Daemon, until
from tests.helpers.insider import Insider, Talk, is_served

pytestmark = pytest.mark.processes

RECORDED = 40
REPLAYED = {"replayed", "unproven", "old_boot", "rate_limited"}
"""Why a recording is refused, by what has happened since."""
CHALLENGE = 1
"""The second byte of the only answer that a recording may earn."""


@pytest.fixture
def insider(tmp_path: pathlib.Path, token: str) -> Insider:
    """A member whose datagrams are recorded."""
    return Insider(tmp_path, token)


def _record(insider: Insider, talk: Talk) -> list[bytes]:
    """What a member said: pings, and that it lives somewhere."""
    here = (Address("127.0.0.1", 9),)
    alive = make_alive(insider.crypto, insider.mesh, 5, "recorded", here, "test")
    said = [talk.sealed(encode_datagram(Gossip()) + encode_rider(alive.wire))]
    said += [talk.sealed(encode_datagram(Ping(n, None, None))) for n in range(1, RECORDED)]
    for data in said:
        talk.send(data)
    talk.ping()
    return said


def _started_again(daemon: Daemon, insider: Insider) -> None:
    """Kill it and start it; it is where it was, and knows the member whose recordings follow."""
    port = daemon.port
    daemon.kill()
    daemon.launch().ready()
    assert daemon.port == port
    _wait_known(daemon, insider)


def _wait_known(daemon: Daemon, insider: Insider) -> None:
    until("it knows the member", lambda: is_served(daemon.port, insider.dialing), 30.0)


def _refusals(daemon: Daemon) -> int:
    drops = daemon.status()["drops"]
    return sum(int(drops.get(reason, 0)) for reason in REPLAYED)


@contextlib.contextmanager
def _eavesdropper() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        yield ours


def _replay(daemon: Daemon, recording: list[bytes]) -> None:
    """Each is refused and counted; no answer is longer than its cause, or more than a challenge."""
    before = _refusals(daemon)
    with _eavesdropper() as ours:
        for data in recording:
            ours.sendto(data, ("127.0.0.1", daemon.port))
        until("all are counted", lambda: _refusals(daemon) >= before + len(recording), 10.0)
        ours.setblocking(False)
        answers: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                answers.append(ours.recv(2_048))
    assert len(answers) <= len(recording)
    for answer in answers:
        assert (len(answer), answer[1]) == (CHALLENGE_BYTES, CHALLENGE)


def test_to_the_same_run(trio_of_nodes: list[Daemon], insider: Insider) -> None:
    """From another address, and from the very same."""
    cleo = trio_of_nodes[2]
    _wait_known(cleo, insider)
    with insider.talk_to(cleo.id, cleo.port) as talk:
        recording = _record(insider, talk)
        _replay(cleo, recording)
        before = cleo.status()["drops"].get("replayed", 0)
        for data in recording:
            talk.send(data)
        talk.ping()
        assert cleo.status()["drops"]["replayed"] >= before + RECORDED


def test_after_restarts(trio_of_nodes: list[Daemon], insider: Insider) -> None:
    """First the receiver starts anew, which makes its token another one; then the sender too, so
    that its recorded boot is an old one; then the receiver once more.
    """
    cleo = trio_of_nodes[2]
    _wait_known(cleo, insider)
    with insider.talk_to(cleo.id, cleo.port) as talk:
        recording = _record(insider, talk)
    _started_again(cleo, insider)
    _replay(cleo, recording)

    insider.start()
    with insider.talk_to(cleo.id, cleo.port) as talk:
        talk.ping()
        _replay(cleo, recording)
        talk.ping()  # a recording of its past does not keep the member out
        second = _record(insider, talk)
    _started_again(cleo, insider)
    _replay(cleo, recording + second)
    with insider.talk_to(cleo.id, cleo.port) as talk:
        talk.ping()
