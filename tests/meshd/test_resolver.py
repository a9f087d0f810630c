"""Names become addresses beside the one who asks, who never waits."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import resolver
from meshd.resolver import FRESH_S, LOOKUP_S, NAMES_MAX, Resolver

Answer = Callable[[str], str]


class FakeResolver(trio.abc.HostnameResolver):
    """Answers from a table; the value is an address, an exception, or seconds of silence."""

    def __init__(self, **table: str | Exception | float) -> None:
        self.table = table
        self.asked: list[str] = []
        self.families: set[int] = set()

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  # as the interface has it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        assert host is not None
        name = host.decode("ascii")
        self.asked.append(name)
        self.families.add(family)
        await trio.lowlevel.checkpoint()
        answer = self.table.get(name.partition(".")[0], OSError("unknown"))
        if isinstance(answer, float):
            await trio.sleep(answer)
            raise OSError("too late")
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (answer, 0))]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


def _run(test: Callable[[Resolver], Any], names: FakeResolver, family: int = 10) -> None:
    """Run `test` beside a resolver that asks `names`; time passes at once."""

    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(names)
        async with trio.open_nursery() as nursery:
            under_test = Resolver(family)
            nursery.start_soon(under_test.run)
            await test(under_test)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_literals_need_no_lookup() -> None:
    """They come back as they are, at once."""
    under_test = trio.run(_make)
    for host in ("10.0.0.1", "::1", "fe80::1"):
        assert under_test.literal(host) == host


async def _make() -> Resolver:
    return Resolver()


def test_a_name_is_known_a_little_later_and_asked_for_once() -> None:
    """The first question is answered by None; while fresh, nobody is asked again."""
    names = FakeResolver(anna="10.0.0.1")

    async def test(under_test: Resolver) -> None:
        assert [under_test.literal("anna.lan") for _ in range(5)] == [None] * 5
        await wait_all_tasks_blocked()
        assert [under_test.literal("anna.lan") for _ in range(5)] == ["10.0.0.1"] * 5
        await trio.sleep(FRESH_S - 1)
        assert under_test.literal("anna.lan") == "10.0.0.1"
        await wait_all_tasks_blocked()
        assert names.asked == ["anna.lan"]

    _run(test, names)


def test_an_old_answer_is_used_until_the_new_one_is_there() -> None:
    """A member whose address changes is followed; a resolver that is down keeps the last."""
    names = FakeResolver(anna="10.0.0.1")

    async def test(under_test: Resolver) -> None:
        for now, then in (("10.0.0.2", "10.0.0.1"), (OSError("down"), "10.0.0.2")):
            under_test.literal("anna")
            await wait_all_tasks_blocked()
            names.table["anna"] = now
            await trio.sleep(FRESH_S + 1)
            assert under_test.literal("anna") == then
            await wait_all_tasks_blocked()
        assert under_test.literal("anna") == "10.0.0.2"

    _run(test, names)


@pytest.mark.parametrize("failure", [OSError("no"), UnicodeError("label too long")])
def test_a_name_that_nobody_knows_does_not_end_it(failure: Exception) -> None:
    """Not even one that no resolver can be asked; the next name is looked up."""
    names = FakeResolver(bad=failure, good="10.0.0.1")

    async def test(under_test: Resolver) -> None:
        assert under_test.literal("bad") is None
        assert under_test.literal("good") is None
        await wait_all_tasks_blocked()
        assert under_test.literal("bad") is None
        assert under_test.literal("good") == "10.0.0.1"

    _run(test, names)


def test_a_silent_name_costs_its_time_once_a_round() -> None:
    """However often it is asked for meanwhile, the others are next."""
    names = FakeResolver(silent=1e9, good="10.0.0.1")

    async def test(under_test: Resolver) -> None:
        for _ in range(100):
            under_test.literal("silent")
        under_test.literal("good")
        await trio.sleep(LOOKUP_S + 0.1)
        assert under_test.literal("good") == "10.0.0.1"
        assert names.asked == ["silent", "good"]

    _run(test, names)


def test_a_flood_of_names_is_bounded() -> None:
    """Queue and cache hold so many; the oldest answer goes, nothing fails."""
    names = FakeResolver(**{f"n{number}": "10.0.0.1" for number in range(2_000)})

    async def test(under_test: Resolver) -> None:
        for start in range(0, 2_000, NAMES_MAX):
            for number in range(start, start + 2 * NAMES_MAX):
                under_test.literal(f"n{number}")
            await wait_all_tasks_blocked()
        assert len(under_test._known) == NAMES_MAX
        assert len(under_test._waiting) == 0

    _run(test, names)


@pytest.mark.parametrize(
    ("family", "asked"),
    [(socket.AF_INET, socket.AF_INET), (socket.AF_INET6, socket.AF_UNSPEC)],
)
def test_an_ipv4_socket_asks_for_ipv4_addresses(family: int, asked: int) -> None:
    """A name with both would else give one that it cannot send to."""
    names = FakeResolver(anna="10.0.0.1")

    async def test(under_test: Resolver) -> None:
        under_test.literal("anna")
        await wait_all_tasks_blocked()

    _run(test, names, family)
    assert names.families == {asked}


def test_a_real_lookup() -> None:
    """`localhost` is known everywhere."""

    async def main() -> None:
        under_test = Resolver(socket.AF_INET)
        with trio.fail_after(10):
            await under_test._look_up("localhost")
        assert under_test.literal("localhost") == "127.0.0.1"
        with trio.fail_after(10):
            await under_test._look_up("fe80::1%" + "a" * 100)

    trio.run(main)
    assert resolver.LOOKUP_S < 10
