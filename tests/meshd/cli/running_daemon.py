"""The one place where tests give a home a control socket, with answers of their choosing."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import trio

from meshd.control import Handler, Streaming, Transport, serve_control
from meshd.home import Home


@contextlib.contextmanager
def daemon_on(
    home: Home,
    handlers: Mapping[str, Handler | Streaming],
    *,
    transport: Transport | None = None,
) -> Iterator[None]:
    """Serve the control socket of `home` from a thread, as a running daemon would."""
    home.create()
    started = threading.Event()
    stop: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def main() -> None:
        stop.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:

                async def serve(task_status: trio.TaskStatus[None]) -> None:
                    await serve_control(home, handlers, task_status, transport=transport)

                await nursery.start(serve)
                started.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        stop[0].run_sync_soon(scope.cancel)
        thread.join(10)
        assert not thread.is_alive()


def answering(result: Mapping[str, Any]) -> Handler:
    """A handler that always gives `result`."""

    async def handler(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return result

    return handler


class Recorder:
    """A handler that remembers what it was asked."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._result = result

    async def __call__(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(arguments)
        return self._result
