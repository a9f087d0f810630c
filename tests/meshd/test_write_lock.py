"""One writer at a time."""

import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from meshd.write_lock import WriteLock


def test_who_finds_it_free_has_it_at_once() -> None:
    """Without a turn of the event loop."""

    async def main() -> None:
        lock = WriteLock()
        for _ in range(2):
            with assert_no_checkpoints():
                async with lock:
                    pass

    trio.run(main)


def test_writers_come_one_after_the_other() -> None:
    """In the order in which they came, also when one is cancelled while it waits."""
    order: list[int] = []

    async def main() -> None:
        lock = WriteLock()

        async def write(number: int, scope: trio.CancelScope) -> None:
            with scope:
                async with lock:
                    order.append(number)
                    await wait_all_tasks_blocked()
                    order.append(number)

        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery, lock:
            for number, scope in enumerate(scopes):
                nursery.start_soon(write, number, scope)
                await wait_all_tasks_blocked()
            scopes[1].cancel()
            await wait_all_tasks_blocked()

    trio.run(main)
    assert order == [0, 0, 2, 2]
