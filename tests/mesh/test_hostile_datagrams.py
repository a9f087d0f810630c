"""A hundred thousand datagrams of every bad kind, against a real daemon's UDP port."""

import pathlib
import random
import socket
from collections.abc import Callable

import psutil
import pytest

from protocol.identity import NodeId, key_from_text, short_id
from tests.helpers.daemons import Daemon, Daemons, wait_whole
from tests.helpers.insider import Insider, Talk
from tests.mesh.conftest import WORDS

pytestmark = pytest.mark.processes

DATAGRAMS = 100_000
BURST = 50
"""So many fit into the socket's buffer even at their longest."""
GROWTH_BYTES_MAX = 10 * 1024 * 1024
TAG = slice(2, 6)
SENDER = slice(6, 14)
SEALED_HEADER_BYTES = 38

Kind = Callable[[], bytes]


def kinds(rng: random.Random, talk: Talk, members: list[bytes]) -> dict[str, Kind]:
    """What an attacker can send who sees traffic, but holds no key. `members`: short ids."""
    recorded = [talk.sealed() for _ in range(200)]
    for data in recorded:
        talk.send(data)
    head = recorded[0][: TAG.stop]

    def flipped() -> bytes:
        data = bytearray(rng.choice(recorded))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    def forged() -> bytes:
        kind = rng.choice((b"\0", b"\0", b"\1"))
        size = 54 if kind == b"\1" else rng.randrange(54, 1_200)
        rest = rng.randbytes(size - SENDER.stop)
        return head[:1] + kind + head[TAG] + rng.choice(members) + rest

    def foreign() -> bytes:
        data = rng.choice(recorded)
        return data[:2] + rng.randbytes(4) + data[TAG.stop :]

    def stranger() -> bytes:
        data = rng.choice(recorded)
        return data[: SENDER.start] + rng.randbytes(8) + data[SENDER.stop :]

    return {
        "random": lambda: rng.randbytes(rng.randrange(1_400)),
        "truncated": lambda: rng.choice(recorded)[: rng.randrange(SEALED_HEADER_BYTES)],
        "replayed": lambda: rng.choice(recorded),
        "too long": lambda: rng.choice(recorded) + rng.randbytes(1_300),
        "flipped": flipped,
        "forged": forged,
        "foreign": foreign,
        "stranger": stranger,
    }


@pytest.fixture
def pair(daemons: Daemons) -> list[Daemon]:
    """The daemon under attack, with a model, and another member."""
    return daemons.mesh({"anna": WORDS, "bert": "none"})


def test_a_flood(pair: list[Daemon], tmp_path: pathlib.Path) -> None:
    """All are dropped and counted by kind, nothing is logged as a failure, no memory is kept,
    and meanwhile members' pings, the gateway and the other node get their answers.
    """
    anna, bert = pair
    insider = Insider(tmp_path, anna.invite())
    rng = random.Random(8)
    process = psutil.Process(anna.process.pid)
    with insider.talk_to(anna.id, anna.port) as talk:
        members = [short_id(insider.node), *(short_id(_key(daemon)) for daemon in pair)]
        making = list(kinds(rng, talk, members).values())
        talk.ping()
        drops_before = sum(anna.status()["drops"].values())
        bytes_before = process.memory_info().rss
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.connect(("127.0.0.1", anna.port))
            for burst in range(DATAGRAMS // BURST):
                for _ in range(BURST):
                    attacker.send(rng.choice(making)())
                talk.ping()
                if burst % 200 == 0:
                    assert anna.nodes()["bert"] in ("alive", "suspect")  # the machine is busy
    drops = anna.status()["drops"]
    assert process.memory_info().rss - bytes_before < GROWTH_BYTES_MAX
    assert sum(drops.values()) - drops_before >= DATAGRAMS, drops
    expected = {"too_short", "too_long", "bad_version", "foreign_mesh", "unknown_sender"}
    expected |= {"replayed", "bad_seal", "bad_challenge", "rate_limited"}
    assert expected <= set(drops), drops
    wait_whole([anna, bert])
    assert bert.chat("words", max_tokens=2).status == 200


def _key(daemon: Daemon) -> NodeId:
    return NodeId(key_from_text(daemon.id))
