"""Waiting for a turn at this node's models: who goes first, what ends a wait, what stays of it."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.admitting import OWNER_ACTIVE_S, WATCH_S, Admitting, NotAdmitted
from meshd.local_models import LocalModels
from meshd.waits import Waits
from protocol.identity import NodeId
from protocol.messages import Load
from protocol.outlook import NOTHING, Outlook
from protocol.requester import ANYBODY, Requester
from runtimes.base import Chunk, Finished, GenerateRequest, RuntimeFailure, Started
from tests.meshd.played_runtime import HELLO, PlayedRuntime, Step

OWNER, ANNA, BERT = (NodeId(name * 32) for name in (b"o", b"a", b"b"))
SLOW: tuple[Step, ...] = (Started((1, 2)), 1.0, *(Chunk((n,), "x") for n in range(98)))
"""A second, and a hundred tokens."""
ANSWER: tuple[Step, ...] = (*SLOW, Finished("stop", 2, 98))


class Node:
    """One with a model of one slot, and the order in which requests got their first token."""

    def __init__(self, *steps: Step, **options: object) -> None:
        self.runtime = PlayedRuntime(steps or ANSWER)
        self.models = LocalModels([self.runtime])
        self.admitting = Admitting(
            self.models,
            lambda node: node == OWNER,
            **options,  # type: ignore[arg-type]  # by name
        )
        self.order: list[str] = []
        self.failures: dict[str, RuntimeFailure] = {}
        self.seconds: dict[str, float] = {}
        self.most_running = 0

    async def ask(
        self,
        name: str,
        node: NodeId = ANNA,
        requester: Requester = ANYBODY,
        *,
        deadline_s: float = 600.0,
        model: str = "m",
    ) -> None:
        """One request, to its end."""
        request = GenerateRequest(model=model, prompt="hello", max_tokens=100)
        came = trio.current_time()
        events = self.admitting.generate(request, node, requester, deadline_s)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Started):
                        self.order.append(name)
                        self.seconds[name] = trio.current_time() - came
                        self.most_running = max(self.most_running, self.runtime.running)
        except RuntimeFailure as failure:
            self.failures[name] = failure


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On a clock that leaps over every wait."""

    async def timed() -> None:
        with trio.fail_after(10_000):
            await main()

    trio.run(timed, clock=MockClock(autojump_threshold=0))


def check_empty(node: Node) -> None:
    """Nothing waits, runs, or is remembered but debts."""
    assert not node.admitting._turns
    assert all(each.is_idle for each in node.admitting._admissions.values())
    assert node.runtime.running == 0


async def _all_at_once(node: Node, *asked: tuple[str, NodeId, Requester]) -> None:
    """Each waits before the next one comes."""
    async with trio.open_nursery() as nursery:
        for name, who, requester in asked:
            nursery.start_soon(node.ask, name, who, requester)
            await wait_all_tasks_blocked()


def test_own_requests_and_peers_wait_in_one_line() -> None:
    """The owner's next, then nodes in turn, and batch last; one slot runs one at a time."""
    node, batch = Node(), Requester(is_batch=True)

    async def main() -> None:
        await _all_at_once(
            node,
            ("first", ANNA, ANYBODY),
            ("anna's batch", ANNA, batch),
            ("anna 1", ANNA, ANYBODY),
            ("anna 2", ANNA, ANYBODY),
            ("bert", BERT, ANYBODY),
            ("owner", OWNER, ANYBODY),
        )

    run(main)
    assert node.order[:2] == ["first", "owner"]
    assert node.order[2:4] in (["anna 1", "bert"], ["bert", "anna 1"])
    assert node.order[4:] == ["anna 2", "anna's batch"]
    assert node.most_running == 1
    assert node.seconds["owner"] == pytest.approx(1.0)
    check_empty(node)


def test_the_load_tells_who_waits() -> None:
    """Those in the admission and those in the runtime."""
    node = Node()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(node.ask, name)
            await wait_all_tasks_blocked()
            assert node.admitting.load == Load(2, 1, 1)
            nursery.cancel_scope.cancel()
        assert node.admitting.load == Load(0, 0, 1)

    run(main)
    check_empty(node)


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_who_goes_away_leaves_nothing(when: str) -> None:
    """A cancelled wait, a cancelled answer: the next one has its turn at once."""
    node = Node()

    async def main() -> None:
        gone = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancellable, node, gone)
            await wait_all_tasks_blocked()
            if when == "waiting":
                gone.cancel()
                await wait_all_tasks_blocked()
            nursery.start_soon(node.ask, "next")
            await wait_all_tasks_blocked()
            gone.cancel()
        check_empty(node)

    async def before() -> None:
        if when == "waiting":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.ask, "runs")
                await wait_all_tasks_blocked()
                await main()
        else:
            await main()

    run(before)
    assert node.order == (["runs", "next"] if when == "waiting" else ["gone", "next"])


async def _cancellable(node: Node, scope: trio.CancelScope) -> None:
    with scope:
        await node.ask("gone")


def test_a_deadline_ends_a_wait() -> None:
    """With a typed reason, at that moment; nothing ran."""
    node = Node(Started((1,)), 10.0, Finished("stop", 1, 0))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ask, "runs")
            await wait_all_tasks_blocked()
            came = trio.current_time()
            await node.ask("late", deadline_s=2.5)
            assert trio.current_time() - came == pytest.approx(2.5, abs=0.01)

    run(main)
    assert node.failures["late"].code == "expired"
    assert len(node.runtime.requests) == 1
    check_empty(node)


def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    """As soon as it is known how long requests take; with when to try again."""
    node = Node()

    async def main() -> None:
        await node.ask("known")
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(node.ask, f"{number}")
            await wait_all_tasks_blocked()
            came = trio.current_time()
            await node.ask("hurried", deadline_s=2.0)
            assert trio.current_time() == came
            nursery.cancel_scope.cancel()

    run(main)
    failure = node.failures["hurried"]
    assert isinstance(failure, NotAdmitted)
    assert failure.code == "wait_too_long"
    assert 5_000 <= failure.retry_after_ms <= 12_000, "ten of a second each, less two"
    assert "1 requests run and 9 wait" in failure.message


def test_a_full_queue_refuses_at_once() -> None:
    """The reason, the load and a time; the owner has room all the same."""
    node = Node(queue_max=2)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in ("runs", "waits", "pushed out"):
                nursery.start_soon(node.ask, name)
                await wait_all_tasks_blocked()
            await node.ask("one too many")
            nursery.start_soon(node.ask, "owner", OWNER)

    run(main)
    assert {name: failure.code for name, failure in node.failures.items()} == {
        "one too many": "queue_full",
        "pushed out": "queue_full",
    }
    assert node.order == ["runs", "owner", "waits"]
    check_empty(node)


def test_a_failure_of_the_runtime_passes_and_frees_the_turn() -> None:
    """What it raised is what the asker gets; the next one runs."""
    node = Node(Started((1,)), RuntimeFailure("crashed", "x"))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ask, "a")
            nursery.start_soon(node.ask, "b")

    run(main)
    assert [failure.code for failure in node.failures.values()] == ["crashed", "crashed"]
    check_empty(node)


def test_a_model_that_goes_leaves_nobody_waiting() -> None:
    """They are told, so that they can go elsewhere; its bookkeeping goes with it."""
    node = Node()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ask, "runs")
            await wait_all_tasks_blocked()
            nursery.start_soon(node.ask, "waits")
            await wait_all_tasks_blocked()
            node.models._sources.clear()
            node.admitting.models_changed()
            await wait_all_tasks_blocked()
            assert node.failures["waits"].code == "unavailable"
        node.admitting.models_changed()
        assert not node.admitting._admissions
        await node.ask("another", model="another")

    run(main)
    assert node.failures["another"].code == "unavailable"


def test_what_can_never_run_does_not_wait() -> None:
    """A request that is at fault is refused while others wait."""
    node = Node()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ask, "runs")
            await wait_all_tasks_blocked()
            wrong = GenerateRequest(model="m")
            with pytest.raises(RuntimeFailure, match="either messages or prompt"):
                await anext(node.admitting.generate(wrong, ANNA, ANYBODY, 60.0))
            nursery.cancel_scope.cancel()

    run(main)
    check_empty(node)


def test_a_machine_that_yields_serves_nobody_else_while_its_owner_is_at_work() -> None:
    """For a minute after his last request ended; those that wait are refused, too."""
    node = Node(yields=True, on_battery=_plugged_in)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.admitting.run)
            await node.ask("before")
            nursery.start_soon(node.ask, "runs")
            await wait_all_tasks_blocked()
            nursery.start_soon(node.ask, "waits")
            await wait_all_tasks_blocked()
            await node.ask("owner", OWNER)
            await node.ask("too soon")
            await trio.sleep(OWNER_ACTIVE_S + WATCH_S + 0.1)
            await node.ask("after")
            nursery.cancel_scope.cancel()

    run(main)
    assert node.order == ["before", "runs", "owner", "after"]
    assert {name: f.code for name, f in node.failures.items()} == {
        "waits": "paused",
        "too soon": "paused",
    }


def test_a_machine_that_yields_serves_nobody_else_on_battery() -> None:
    """Until it is plugged in; its owner always. One that does not yield does not look."""
    batteries = [False, True, False]

    async def look() -> bool:
        return batteries.pop(0)

    node = Node(*HELLO, yields=True, on_battery=look)

    async def ask_and_look_again() -> None:
        """Between two looks."""
        for name in ("first", "on battery", "plugged in"):
            await trio.sleep(WATCH_S / 2)
            await node.ask(name, BERT)
            await trio.sleep(WATCH_S / 2)

    async def main() -> None:
        with trio.move_on_after(2.9 * WATCH_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.admitting.run)
                nursery.start_soon(ask_and_look_again)
        await Node(on_battery=_never).admitting.run()

    run(main)
    assert node.order == ["first", "plugged in"]
    assert node.failures["on battery"].code == "paused"


async def _plugged_in() -> bool:
    return False


async def _never() -> bool:
    raise AssertionError("nobody asked for this")


def test_who_waits_is_told_its_place() -> None:
    """By whoever's turn it is: a second one of the same asker is behind the first of another, and
    who runs, or has left, waits for nothing.
    """

    async def main() -> None:
        node = Node()
        asked = [("first", ANNA), ("second", ANNA), ("third", ANNA), ("other", BERT)]
        waits = {name: Waits() for name, _ in asked}

        async def ask(name: str, asker: NodeId) -> None:
            request = GenerateRequest(model="m", prompt="hello", max_tokens=100)
            mine = node.admitting.generate(request, asker, ANYBODY, 600.0, waits[name])
            async with aclosing(mine) as events:
                async for _ in events:
                    pass

        async with trio.open_nursery() as nursery:
            for name, asker in asked:
                nursery.start_soon(ask, name, asker)
                await trio.sleep(0.001)
            places = {name: each.now() for name, each in waits.items()}
            assert places == {
                "first": NOTHING,
                "second": Outlook(place=2),
                "third": Outlook(place=3),
                "other": Outlook(place=2),
            }
            nursery.cancel_scope.cancel()
        assert {each.now() for each in waits.values()} == {NOTHING}

    run(main)


def test_what_an_upstream_does_for_others_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it waited for when this node runs dry; peers hear of it."""
    node = Node()

    async def main() -> None:
        monkeypatch.setattr(
            PlayedRuntime, "load", property(lambda runtime: Load(2, 5 + runtime.running, 1))
        )
        assert node.admitting.load == Load(2, 5, 1)
        assert node.admitting.own_load == Load(0, 0, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ask, "one")
            nursery.start_soon(node.ask, "two")
            await wait_all_tasks_blocked()
            assert node.admitting.own_load == Load(1, 1, 1)

    run(main)
    check_empty(node)
