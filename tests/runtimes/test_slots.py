"""Whose turn it is: bounds, order, and nothing lost when waiting ends otherwise."""

import pytest
import trio
import trio.testing

from runtimes.base import Load, RuntimeFailure
from runtimes.slots import Slots


def test_slots_are_given_in_the_order_of_asking() -> None:
    """With one slot and five askers, turns come first come, first served."""
    order: list[int] = []

    async def main() -> None:
        slots = Slots(1, 8)
        await slots.acquire()

        async def user(number: int) -> None:
            await slots.acquire()
            order.append(number)
            slots.release()

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(user, number)
                await trio.testing.wait_all_tasks_blocked()
            slots.release()
        assert slots.load == Load(queued=0, running=0, slots=1)

    trio.run(main)
    assert order == list(range(5))


def test_one_more_than_the_queue_holds_is_refused() -> None:
    """A full queue answers at once, and says so."""

    async def main() -> None:
        slots = Slots(1, 1)
        await slots.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slots.acquire)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeFailure) as refused:
                await slots.acquire()
            assert refused.value.code == "queue_full"
            nursery.cancel_scope.cancel()
        assert slots.load == Load(queued=0, running=1, slots=1)

    trio.run(main)


def test_a_slot_that_meets_a_cancellation_is_passed_on() -> None:
    """Granted and cancelled in the same instant: the slot goes to the next, never away."""

    async def main() -> None:
        slots = Slots(1, 8)
        await slots.acquire()
        got = trio.Event()

        async def next_user() -> None:
            await slots.acquire()
            got.set()

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slots.acquire)
                await trio.testing.wait_all_tasks_blocked()
                outer.start_soon(next_user)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                slots.release()
            with trio.fail_after(1):
                await got.wait()
        assert slots.load == Load(queued=0, running=1, slots=1)

    trio.run(main)


def test_more_slots_let_in_who_waits_and_fewer_throw_nobody_out() -> None:
    """The number may change while requests run; from then on it holds."""

    async def main() -> None:
        slots = Slots(1, 8)
        await slots.acquire()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(slots.acquire)
                await trio.testing.wait_all_tasks_blocked()
            slots.resize(3)
            await trio.testing.wait_all_tasks_blocked()
            assert slots.load == Load(queued=2, running=3, slots=3)
            slots.resize(2)
            slots.release()
            assert slots.load == Load(queued=2, running=2, slots=2)
            slots.release()
            await trio.testing.wait_all_tasks_blocked()
            assert slots.load == Load(queued=1, running=2, slots=2)
            slots.release()

    trio.run(main)
