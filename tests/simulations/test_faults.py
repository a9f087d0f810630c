"""What can go wrong in a simulated world, and that it goes wrong as it would outside."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from protocol.config import MILLISECOND, SECOND
from protocol.crypto import Crypto, SodiumCrypto
from protocol.effects import SendDatagram
from protocol.events import (
    Delayed,
    Event,
    OfferChanged,
    Resumed,
    SendFailed,
    StreamFailed,
    StreamFailure,
    StreamReceived,
)
from protocol.members import State
from simulations.host import Host
from simulations.network import NetworkOptions
from simulations.pretend_crypto import PretendCrypto
from simulations.world import World

REPOSITORY = pathlib.Path(__file__).parents[2]
SIZE = 8
UNANSWERABLE = b"\x00"


class Watched(World):
    """A world that writes down which events its nodes are given."""

    def __init__(self, size: int, seed: int, network: NetworkOptions | None = None) -> None:
        super().__init__(size, seed, network=network, make_crypto=PretendCrypto)
        self.given: list[tuple[int, int, Event]] = []

    def give(self, host: Host, event: Event) -> None:
        """Note what a node that can hear hears."""
        if host.node is not None and not host.is_paused:
            self.given.append((self.now, host.index, event))
        super().give(host, event)

    def heard(self, index: int, kind: type[Event]) -> list[tuple[int, Event]]:
        """(time, event) of one host's events of a kind."""
        return [(at, e) for at, i, e in self.given if i == index and isinstance(e, kind)]


def _up(size: int = SIZE, seed: int = 1, network: NetworkOptions | None = None) -> Watched:
    world = Watched(size, seed, network)
    for index in range(size):
        world.start(index, *[0][:index])
    assert world.run_until(world.is_converged, 30 * SECOND)
    world.run(3 * SECOND)
    world.given.clear()
    world.changes.clear()
    return world


def _ask(world: World, opener: int, target: int) -> None:
    """Open a stream to a host whose address the opener knows."""
    host = world.hosts[opener]
    assert host.node is not None
    world._streams.open(host, world.hosts[target], UNANSWERABLE)


def _doubted(world: World) -> list[State]:
    return [c.state for _, _, c in world.changes if c.state in (State.SUSPECT, State.DEAD)]


def story(seed: int) -> str:
    """Every fault once; returns the hash over all that was sent and changed."""
    network = NetworkOptions(loss_ppm=20_000)
    world = World(10, seed, network=network, make_crypto=PretendCrypto)
    world.starve(2, 500 * MILLISECOND, 2_500 * MILLISECOND)
    for index in range(10):
        world.start(index, *[0][:index])
    world.network.set_host_loss(5, 200_000)
    world.network.block([6], [7, 8])
    world.run(10 * SECOND)
    world.pause(3)
    world.crash(4, is_silent=True)
    world.crash(9)
    world.network.unplug(1)
    world.run(20 * SECOND)
    world.resume(3)
    world.network.plug_in(1)
    world.network.unblock()
    world.run(20 * SECOND)
    return world.trace_hash


def test_one_seed_is_one_story() -> None:
    """Faults included, in processes with different hash seeds; another seed is another story."""
    code = "from tests.simulations.test_faults import story; print(story(5))"
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert told[0] == told[1] == story(5)
    assert story(6) != told[0]


class TestPause:
    """A stopped process (SIGSTOP)."""

    def test_a_short_one_is_no_death(self) -> None:
        """5 s: it hears of the gap when it wakes, and reads what waited, in order."""
        world = _up()
        world.pause(3)
        world.run(5 * SECOND)
        assert [entry for entry in world.given if entry[1] == 3] == []
        waiting = len(world.hosts[3].backlog)
        assert waiting > 0
        woken = world.now
        world.resume(3)
        own = [event for at, index, event in world.given if index == 3 and at == woken]
        assert isinstance(own[0], Resumed)
        assert 3 * SECOND < own[0].gap_ns <= 5 * SECOND
        assert len(own) == 1 + waiting
        world.run(30 * SECOND)
        assert State.DEAD not in _doubted(world)
        assert world.is_converged()

    def test_a_long_one_is_found_dead_and_is_back(self) -> None:
        """The others give it up; after waking it is alive everywhere again."""
        world = _up()
        world.pause(3)
        world.run(40 * SECOND)
        seen = world.states_of(3)
        assert all(state is State.DEAD for state in seen.values())
        world.resume(3)
        assert world.run_until(world.is_converged, 20 * SECOND)

    def test_a_moment_is_a_delay(self) -> None:
        """Long enough to be unwell, not long enough to have been asleep."""
        world = _up()
        world.pause(3)
        node = world.hosts[3].node
        assert node is not None
        world.run(node.deadline - world.now + SECOND)
        world.resume(3)
        assert [event for _, event in world.heard(3, Delayed)] == [Delayed(SECOND)]
        assert world.heard(3, Resumed) == []

    def test_waking_what_does_not_sleep_changes_nothing(self) -> None:
        """Also a host without a node."""
        world = _up()
        world.resume(3)
        world.pause(4)
        world.crash(4)
        world.resume(4)
        assert world.given == []

    def test_the_backlog_has_an_end(self) -> None:
        """A stopped process does not keep everything."""
        world = _up()
        world.pause(3)
        for _ in range(3_000):
            world.give(world.hosts[3], OfferChanged("labels", b""))
        assert len(world.hosts[3].backlog) == 2_048


class TestStarvation:
    """A process that reads late while its timers fire on time."""

    def test_it_reads_late_and_in_order(self) -> None:
        """Each message within the bounds after the one before it at the latest."""
        world = _up()
        world.starve(3, 500 * MILLISECOND, 2_500 * MILLISECOND)
        world.run(2 * MILLISECOND)
        sent = [world.now + step * MILLISECOND for step in range(5)]
        read: list[tuple[int, int]] = []

        def reader(number: int) -> Callable[[], None]:
            return lambda: read.append((number, world.now))

        for number in range(5):
            world.hand(world.hosts[3], reader(number))
            world.run(MILLISECOND)
        world.run(3 * SECOND)
        assert [number for number, _ in read] == [0, 1, 2, 3, 4]
        late = [at - began for (_, at), began in zip(read, sent, strict=True)]
        assert all(500 * MILLISECOND <= one <= 2_500 * MILLISECOND for one in late)

    def test_it_ends(self) -> None:
        """From then on messages are read at once."""
        world = _up()
        world.starve(3, 500 * MILLISECOND, 2_500 * MILLISECOND)
        world.starve(3, 0, 0)
        read: list[int] = []
        world.hand(world.hosts[3], lambda: read.append(world.now))
        assert read == [world.now]

    def test_what_it_had_not_read_dies_with_it(self) -> None:
        """A new process does not get the old one's messages."""
        world = _up()
        world.starve(3, 500 * MILLISECOND, 2_500 * MILLISECOND)
        read: list[int] = []
        world.hand(world.hosts[3], lambda: read.append(1))
        world.crash(3)
        world.start(3)
        world.run(5 * SECOND)
        assert read == []


class TestStreams:
    """How exchanges fail."""

    @pytest.mark.parametrize(
        ("is_silent", "reason", "after_ns"),
        [
            (False, StreamFailure.REFUSED, 10 * MILLISECOND),
            (True, StreamFailure.TIMED_OUT, 5 * SECOND),
        ],
    )
    def test_a_dead_process_refuses_a_dead_machine_is_silent(
        self, is_silent: bool, reason: StreamFailure, after_ns: int
    ) -> None:
        """The first at once, the second at the time-out."""
        world = _up()
        world.crash(3, is_silent=is_silent)
        world.given.clear()
        began = world.now
        _ask(world, 1, 3)
        world.run(after_ns)
        target = world.hosts[3].crypto.node_id
        failed = [
            (at, e) for at, e in world.heard(1, StreamFailed) if e == StreamFailed(target, reason)
        ]
        assert failed
        assert failed[0][0] - began <= after_ns

    def test_a_process_that_dies_before_it_answers(self) -> None:
        """Its machine cuts the connection."""
        world = _up()
        world.pause(3)
        _ask(world, 1, 3)
        world.run(SECOND)
        world.crash(3)
        world.given.clear()
        world.run(2 * MILLISECOND)
        cut = StreamFailed(world.hosts[3].crypto.node_id, StreamFailure.OTHER)
        assert cut in [event for _, event in world.heard(1, StreamFailed)]

    def test_a_stopped_process_never_reads_what_was_given_up(self) -> None:
        """The opener hears of the time-out, the target of nothing."""
        world = _up()
        world.pause(3)
        _ask(world, 1, 3)
        world.run(20 * SECOND)
        timed_out = StreamFailed(world.hosts[3].crypto.node_id, StreamFailure.TIMED_OUT)
        assert timed_out in [event for _, event in world.heard(1, StreamFailed)]
        world.given.clear()
        world.resume(3)
        world.run(MILLISECOND)
        read = [e.data for _, e in world.heard(3, StreamReceived) if isinstance(e, StreamReceived)]
        assert UNANSWERABLE not in read

    def test_a_message_without_an_answer(self) -> None:
        """The other end closes: that is a failure, too."""
        world = _up()
        _ask(world, 1, 3)
        world.run(SECOND)
        assert world.heard(3, StreamReceived)
        closed = StreamFailed(world.hosts[3].crypto.node_id, StreamFailure.OTHER)
        assert closed in [event for _, event in world.heard(1, StreamFailed)]

    def test_a_slow_reader_takes_so_much_a_second(self) -> None:
        """One message after the other, and what would wait too long never; what it sends itself
        is read as ever.
        """
        world = _up()
        network, reader, other = world.network, world.hosts[3], world.hosts[1]
        network.set_reading(3, 100)
        for seconds in (2, 4, 6):
            took = network.stream_delay(other, reader, 200, world.now)
            assert took is not None
            assert seconds * SECOND <= took < seconds * SECOND + 20 * MILLISECOND
        assert network.stream_delay(other, reader, 200, world.now) is None
        assert (network.stream_delay(reader, other, 200, world.now) or SECOND) < 20 * MILLISECOND
        network.set_reading(3, None)
        assert (network.stream_delay(other, reader, 200, world.now) or SECOND) < 20 * MILLISECOND

    def test_who_waits_for_a_slow_reader_gives_up(self) -> None:
        """At the time-out; nobody is called dead for it, as datagrams are read."""
        world = _up()
        world.network.set_reading(3, 1)
        world.send_stream(world.hosts[1], world.hosts[3], bytes(100))
        world.run(6 * SECOND)
        timed_out = StreamFailed(world.hosts[3].crypto.node_id, StreamFailure.TIMED_OUT)
        assert timed_out in [event for _, event in world.heard(1, StreamFailed)]
        world.run(60 * SECOND)
        assert world.is_converged()
        assert world.mistakes == []

    def test_one_way_is_no_way(self) -> None:
        """TCP needs both directions."""
        world = _up()
        world.network.block([3], [1])
        assert world.network.stream_delay(world.hosts[1], world.hosts[3], 0, 0) is None


class TestLines:
    """Bad lines and interfaces."""

    def test_a_one_way_cut(self) -> None:
        """Only that direction, until it is undone."""
        network = _up().network
        network.block([0, 1], [2, 3])
        assert not network.is_connected(0, 2)
        assert network.is_connected(2, 0)
        assert network.is_connected(0, 1)
        network.unblock()
        assert network.is_connected(0, 2)

    def test_the_loss_of_one_host(self) -> None:
        """In both directions, and of nobody else."""
        network = _up().network
        network.set_host_loss(2, 250_000)
        for source, target, share in ((2, 0, 0.75), (0, 2, 0.75), (0, 1, 1.0)):
            arrived = sum(len(network.delays(source, target)) for _ in range(8_000)) / 8_000
            assert arrived == pytest.approx(share, abs=0.02)
        network.set_host_loss(2, 0)
        assert all(network.delays(2, 0) for _ in range(1_000))

    def test_an_unplugged_host_is_told_by_its_own_system(self) -> None:
        """Datagrams are not sent, streams fail at once, nothing comes in."""
        world = _up()
        world.network.unplug(3)
        node = world.hosts[3]
        world._carry_out_all(node, [SendDatagram(b"x", world.hosts[1].address)])
        _ask(world, 3, 1)
        world.run(0)
        assert world.heard(3, SendFailed) == [(world.now, SendFailed(world.hosts[1].address))]
        assert [event for _, event in world.heard(3, StreamFailed)] == [
            StreamFailed(world.hosts[1].crypto.node_id, StreamFailure.OTHER)
        ]
        assert not world.network.is_connected(1, 3)
        world.network.plug_in(3)
        assert world.network.is_connected(3, 1)


class TestPretendCrypto:
    """It takes the place of libsodium and answers as it would."""

    def test_lengths_and_answers(self) -> None:
        """The same for both: what is right is taken, what was changed is not."""
        for make in (SodiumCrypto, PretendCrypto):
            anna: Crypto = make(bytes([1]) * 32)
            bert: Crypto = make(bytes([2]) * 32)
            signature = anna.sign(b"data")
            assert len(anna.node_id) == 32
            assert len(signature) == 64
            assert bert.verify(anna.node_id, signature, b"data")
            assert not bert.verify(anna.node_id, signature, b"date")
            assert not bert.verify(bert.node_id, signature, b"data")
            key = anna.pair_key(bert.node_id)
            assert key is not None
            assert key == bert.pair_key(anna.node_id)
            sealed = anna.seal(key, bytes(24), b"plain")
            assert len(sealed) == len(b"plain") + 16
            assert bert.open(key, bytes(24), sealed) == b"plain"
            assert bert.open(key, bytes(23) + b"\x01", sealed) is None
            assert bert.open(bytes(32), bytes(24), sealed) is None
            assert bert.open(key, bytes(24), sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
            assert bert.open(key, bytes(24), b"short") is None

    def test_true_signatures_count_as_well(self) -> None:
        """Those of the root key and of invites are real."""
        sodium = SodiumCrypto(bytes([3]) * 32)
        signature = sodium.sign(b"data")
        pretend = PretendCrypto(bytes([4]) * 32)
        assert pretend.verify(sodium.node_id, signature, b"data")
        assert not pretend.verify(sodium.node_id, signature, b"date")
