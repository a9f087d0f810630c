"""What trust costs: handshakes, streams with and without one, signatures, the records of a join.

`streams`: two processes on loopback, each with a node's key and certificates of one mesh, `Peers`
on both sides and nothing else: whole mutual handshakes per second (one after the other, and 16 at
a time) with the processor time of each side; then an exchange of a few bytes over a connection that
is kept beside one that is fresh (p50, p99). `signatures`: checks and signatures per second. `join`:
a newcomer takes in the records and lives of N members, as `joining.py` does and then its node from
disk: seconds and signatures checked. `half_open`: that many connections that say nothing, held open
to a real daemon, while another member makes exchanges over fresh connections: their times, what the
daemon refused, and how it grew.

Run: python -m tests.benchmarks.trust_cost [streams|signatures|join|half_open ...]
         [--members 1000] [--connections 10000] [--short]
--short shows in seconds that it works; its figures say nothing.
"""

import argparse
import contextlib
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Final

import psutil
import structlog
import trio

from meshd.peers import STREAM_VERSION, Kind
from protocol import crypto as crypto_module
from protocol.assembly import NodeConfig
from protocol.authority import Authority
from protocol.codec import encode_stream
from protocol.crypto import SodiumCrypto
from protocol.fields import pack
from protocol.identity import Address
from protocol.messages import PushPull
from protocol.node import Node
from protocol.snapshot import Snapshot
from protocol.statements import make_alive
from tests.helpers.daemons import Daemons
from tests.helpers.insider import Insider, PeerStream
from tests.helpers.nodes import Mesh, address_of, seed_of
from tests.meshd.asked_peers import Echo, ask
from tests.meshd.members import Member, workers

TOGETHER: Final = 16


def percentiles(times_s: list[float]) -> str:
    """The middle and the slow end, in milliseconds."""
    ordered = sorted(times_s)
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms"


# ---- streams ----


async def _serve(folder: pathlib.Path) -> None:
    """The other process: answer until its standard input ends."""
    bert = Member(folder, 1, workers(0, 1))
    async with bert.serving({Kind.GOSSIP: Echo()}) as address:
        print(address.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


@contextlib.contextmanager
def _other_process(folder: pathlib.Path) -> Iterator[tuple[Address, psutil.Process]]:
    command = [sys.executable, "-m", "tests.benchmarks.trust_cost", "--serve", str(folder)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Address("127.0.0.1", int(child.stdout.readline())), psutil.Process(child.pid)
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


async def _handshakes(anna: Member, address: Address, count: int, together: int) -> float:
    """Dial so often; seconds."""
    peer = SodiumCrypto(seed_of("mesh", "node", 1)).node_id
    left = count

    async def dial() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            (await anna.peers.dial(peer, [address])).close()

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(together):
            nursery.start_soon(dial)
    return time.perf_counter() - started


async def _exchanges(anna: Member, address: Address, count: int, is_fresh: bool) -> list[float]:
    peer = SodiumCrypto(seed_of("mesh", "node", 1)).node_id
    times: list[float] = []
    for _ in range(count):
        if is_fresh:
            anna.peers.drop_idle(everything=True)
        started = time.perf_counter()
        assert await ask(anna, peer, address) is not None
        times.append(time.perf_counter() - started)
    anna.peers.drop_idle(everything=True)
    return times


def streams(count: int) -> None:
    """Handshakes, and what a kept connection saves."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        anna = Member(folder, 0, workers(0, 1))
        own = psutil.Process()
        with _other_process(folder) as (address, other):
            trio.run(_exchanges, anna, address, 5, False)
            for together in (1, TOGETHER):
                before = [sum(process.cpu_times()[:2]) for process in (own, other)]
                took_s = trio.run(_handshakes, anna, address, count, together)
                spent = [
                    (sum(process.cpu_times()[:2]) - cpu_s) / count * 1e3
                    for process, cpu_s in zip((own, other), before, strict=True)
                ]
                print(
                    f"handshakes, {together} at a time: {count / took_s:,.0f} a second; processor "
                    f"time of one: {spent[0]:.2f} ms dialing, {spent[1]:.2f} ms accepting"
                )
            for words, is_fresh in (("kept", False), ("fresh", True)):
                times = trio.run(_exchanges, anna, address, count, is_fresh)
                print(f"an exchange over a {words} connection: {percentiles(times)}")


# ---- signatures ----


def signatures(count: int) -> None:
    """How many a second, of as many bytes as a record has; none of them twice."""
    crypto = SodiumCrypto(seed_of("signer"))
    texts = [number.to_bytes(250, "big") for number in range(count)]
    started = time.process_time()
    signed = [crypto.sign(text) for text in texts]
    signing_s = time.process_time() - started
    started = time.process_time()
    assert all(map(crypto.verify, [crypto.node_id] * count, signed, texts))
    checking_s = time.process_time() - started
    print(f"signatures checked: {count / checking_s:,.0f} a second; made: {count / signing_s:,.0f}")


# ---- join ----


def join(members: int) -> None:
    """What a newcomer does with everybody's records and lives."""
    mesh = Mesh(members)
    lives = tuple(
        make_alive(machine.crypto, mesh.authorities.mesh, 5, "n", (address_of(1),), "").wire
        for machine in mesh.machines[:-1]
    )
    newcomer = mesh.machines[-1].crypto
    root = mesh.authorities.root
    crypto_module._is_signed.cache_clear()

    def answered() -> object:
        authority = Authority(newcomer, root)
        for wire in mesh.records:
            authority.add(wire)
        assert authority.admission(newcomer.node_id) is not None
        return authority

    def from_disk() -> object:
        config = NodeConfig(
            name="newcomer",
            software="test",
            root=root,
            boot=1,
            boot_secret=seed_of("boot"),
            incarnation=0,
            offers_version=0,
            snapshot=Snapshot(records=mesh.records, lives=lives),
        )
        node = Node(config, newcomer, random.Random(1))
        assert len(node.authority.records()) == len(mesh.records)
        return node

    size = sum(map(len, mesh.records)) + sum(map(len, lives))
    print(
        f"join of {members:,} members: {len(mesh.records):,} records, {len(lives):,} lives, "
        f"{size / 2**20:.2f} MiB"
    )
    steps: list[tuple[str, Callable[[], object]]] = [
        ("the answer's records", answered),
        ("the node, from disk, with lives", from_disk),
    ]
    for words, step in steps:
        checked = crypto_module._is_signed.cache_info().misses
        started = time.process_time()
        step()
        took_s = time.process_time() - started
        checked = crypto_module._is_signed.cache_info().misses - checked
        print(f"  {words}: {took_s:.2f} s, {checked:,} signatures checked")


# ---- half open ----


def _greet(insider: Insider, port: int) -> float:
    """One exchange of a member over a fresh connection; seconds."""
    started = time.perf_counter()
    with PeerStream(insider.dialing, port) as stream:
        opening, message = (
            pack((STREAM_VERSION, Kind.GOSSIP)),
            encode_stream(PushPull(False, (), ())),
        )
        stream.send(b"".join(len(f).to_bytes(4, "big") + f for f in (opening, message)))
        assert stream.receive_frame()
    return time.perf_counter() - started


def half_open(connections: int) -> None:
    """A crowd that says nothing, from one host, and a member from the same host (so that it shares
    the crowd's places: the worst case).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 500), hard))
    silent: list[socket.socket] = []
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            with Daemons(folder) as daemons:
                anna = daemons.add("anna").launch().ready()
                insider = Insider(folder, anna.invite())
                process = psutil.Process(anna.process.pid)
                quiet = [_greet(insider, anna.port) for _ in range(50)]
                before = process.memory_info().rss
                cpu_s = sum(process.cpu_times()[:2])
                during: list[float] = []
                lost = 0
                started = time.perf_counter()
                for number in range(connections):
                    silent.append(socket.create_connection(("127.0.0.1", anna.port)))
                    if number % 200 == 199:
                        try:
                            during.append(_greet(insider, anna.port))
                        except OSError:
                            lost += 1
                opened_s = time.perf_counter() - started
                spent_ms = (sum(process.cpu_times()[:2]) - cpu_s) / connections * 1e3
                grown = (process.memory_info().rss - before) / 2**20
                refused = anna.status()["refusals"]
                held = [_greet(insider, anna.port) for _ in range(20)]
                print(f"{connections:,} half-open connections opened in {opened_s:.1f} s, all held")
                print(f"  daemon: {spent_ms:.2f} ms of processor time each; grew {grown:.1f} MiB")
                print(f"  refused: {refused}")
                print(f"  a member's exchange, fresh: before {percentiles(quiet)}")
                print(f"    while they come {percentiles(during)} ({lost} had to be tried again)")
                print(f"    while they are held {percentiles(held)}")
    finally:
        for connection in silent:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


PARTS: Final = ("streams", "signatures", "join", "half_open")


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--serve", type=pathlib.Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    os.environ["MESHD_LOG"] = "warning"
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    if chosen.serve is not None:
        trio.run(_serve, chosen.serve)
        return
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no part of it: {', '.join(sorted(unknown))}")
    is_short = chosen.short
    for part in chosen.parts or PARTS:
        match part:
            case "streams":
                streams(30 if is_short else 1_000)
            case "signatures":
                signatures(200 if is_short else 20_000)
            case "join":
                join(20 if is_short else chosen.members)
            case _:
                half_open(400 if is_short else chosen.connections)


if __name__ == "__main__":
    main()
