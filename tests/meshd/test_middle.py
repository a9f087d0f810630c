"""Somebody between two members: whatever certificate it holds, it hears nothing and changes
nothing.
"""

import contextlib
import gc
import pathlib
import ssl
from collections.abc import Callable, Iterator

import pytest
import trio

from meshd import connection
from meshd.frames import StreamBroken
from meshd.peers import Kind, PeerUnreachable
from meshd.trust.certificates import make_contexts
from protocol.identity import Address
from tests.meshd.asked_peers import OPENING, Echo, ask, run
from tests.meshd.man_in_the_middle import (
    Change,
    cutting,
    flipping,
    relay,
    terminating,
    unchanged,
)
from tests.meshd.members import Member, until, workers

TOGETHER = 16
"""Attacks at a time."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A socket that nobody closed is an error of the test that left it."""
    yield
    gc.collect()


def _lenient(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """The middle takes any certificate."""
    for context in contexts:
        context.verify_mode = ssl.CERT_OPTIONAL if context is contexts[1] else ssl.CERT_NONE


@pytest.mark.parametrize("kind", [Kind.GOSSIP, Kind.REQUEST, Kind.TASK])
@pytest.mark.parametrize(
    ("index", "secret", "words"),
    [
        (2, None, "another node answers there"),
        (2, b"another mesh's secret".ljust(32), "it belongs to another mesh"),
    ],
    ids=["a member's own", "a stranger's"],
)
def test_who_ends_tls_in_the_middle_hears_nothing(
    tmp_path: pathlib.Path, index: int, secret: bytes | None, words: str, kind: Kind
) -> None:
    """The dialer expects one key and gets another: it leaves before its first word."""
    roles = workers(0, 1, 2)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    more = {} if secret is None else {"secret": secret}
    mallory = Member(tmp_path, index, roles, **more)
    contexts = make_contexts(mallory.home)
    _lenient(contexts)
    heard = bytearray()
    echo = Echo()

    async def test() -> None:
        handlers = dict.fromkeys((Kind.GOSSIP, Kind.REQUEST, Kind.TASK), echo)
        async with bert.serving(handlers) as there:
            async with terminating(there, contexts, heard) as middle:
                with pytest.raises(PeerUnreachable, match=words):
                    await ask(anna, bert.id, middle, kind=kind)
                await until(lambda: bert.peers._inbound.count == 0)
            assert heard == b""
            assert not echo.streams

    run(test)


def test_the_middle_would_hear_who_expects_it(tmp_path: pathlib.Path) -> None:
    """So that the test above fails for its reason: whoever asks mallory is heard by mallory."""
    roles = workers(0, 1, 2)
    anna, bert, mallory = (Member(tmp_path, index, roles) for index in range(3))
    heard = bytearray()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as there:
            contexts = make_contexts(mallory.home)
            async with terminating(there, contexts, heard) as middle:
                answer = await ask(anna, mallory.id, middle)
                assert answer == mallory.id[:4] + b"hello"
                assert b"hello" in heard
                anna.peers.drop_idle(everything=True)

    run(test)


def test_a_relay_that_changes_nothing_is_no_matter(tmp_path: pathlib.Path) -> None:
    """Any network is one."""
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)

    async def test() -> None:
        async with (
            bert.serving({Kind.GOSSIP: Echo()}) as there,
            relay(there, unchanged, unchanged) as middle,
        ):
            assert await ask(anna, bert.id, middle) == anna.id[:4] + b"hello"
            anna.peers.drop_idle(everything=True)

    run(test)


@pytest.mark.parametrize("is_up", [True, False], ids=["to the server", "to the dialer"])
@pytest.mark.parametrize(("attack", "step"), [(cutting, 1), (flipping, 7)])
def test_no_byte_of_the_handshake_can_be_missing_or_changed(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: Callable[[int], Change],
    step: int,
    is_up: bool,
) -> None:
    """Cut at every byte, or a bit of it changed: the exchange fails, or was not touched (TLS
    ignores a few bytes of its own headers); and the next one is served.
    """
    roles = workers(0, 1)
    anna, bert = Member(tmp_path, 0, roles), Member(tmp_path, 1, roles)
    monkeypatch.setattr(connection, "HANDSHAKE_S", 2.0)
    answers: list[bytes | None] = []

    async def attacked(there: Address, change: Change) -> None:
        ways = (change, unchanged) if is_up else (unchanged, change)
        async with relay(there, *ways) as middle:
            try:
                fresh = await anna.peers.dial(bert.id, [middle])
            except PeerUnreachable:
                answers.append(None)
                return
            with contextlib.suppress(StreamBroken):
                await fresh.frames.send(OPENING)
                await fresh.frames.send(b"hello")
                answers.append(await fresh.frames.receive(100, 2.0))
            fresh.close()

    async def test() -> None:
        async with bert.serving({Kind.GOSSIP: Echo()}) as there:
            passed = bytearray()

            def counting(data: bytes) -> tuple[bytes, bool]:
                passed.extend(data)
                return data, True

            ways = (counting, unchanged) if is_up else (unchanged, counting)
            async with relay(there, *ways) as middle:
                (await anna.peers.dial(bert.id, [middle])).close()
            for first in range(0, len(passed), TOGETHER * step):
                async with trio.open_nursery() as nursery:
                    for place in range(first, min(first + TOGETHER * step, len(passed)), step):
                        nursery.start_soon(attacked, there, attack(place))
            await until(lambda: bert.peers._inbound.count == 0)
            assert set(answers) <= {None, anna.id[:4] + b"hello"}
            assert attack is flipping or answers.count(None) == len(answers)
            if is_up:
                assert bert.peers.refusals["handshake"] > len(passed) // step // 2
            assert await ask(anna, bert.id, there) is not None
            anna.peers.drop_idle(everything=True)

    async def main() -> None:
        with trio.fail_after(120):
            await test()

    trio.run(main)
