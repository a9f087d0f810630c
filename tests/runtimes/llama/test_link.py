"""When a worker is killed for its silence."""

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from runtimes.base import GenerateRequest
from runtimes.llama.frames import Prefilled, encode
from runtimes.llama.link import LAST_LOOK_S, WorkerLink
from tests.runtimes.llama.test_patience import SETTINGS, ready


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_standstill_of_this_process_is_no_silence_of_the_worker(is_silent: bool) -> None:
    """What the worker said meanwhile counts, though the deadline is noticed before it is read."""
    clock = MockClock()

    async def main() -> None:
        link = WorkerLink(SETTINGS, memory_bytes=0, on_ready=lambda frame: None)
        link._handle(ready())
        reply = link.start(GenerateRequest(model="m", prompt="a"), on_end=lambda: None)
        worker, daemon = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link._read, daemon)
            nursery.start_soon(link._watch)
            await wait_all_tasks_blocked()
            clock.jump(SETTINGS.hang_timeout_s + 60)
            await trio.lowlevel.checkpoint()
            if not is_silent:
                await worker.send_all(encode(Prefilled(request=reply.request, tokens=1)))
            await wait_all_tasks_blocked()
            clock.jump(LAST_LOOK_S)
            await wait_all_tasks_blocked()
            assert link.is_up is not is_silent
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
