"""What tests.benchmarks.request_cost asks: the same request of each, in the same way."""

import contextlib
import dataclasses
import http.client
import json
import pathlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import trio

from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import DEMO_FILE, read_settings
from tests.benchmarks import engine_servers, litellm_proxy
from tests.helpers.daemons import Daemon

MODEL = "demo"
PROMPT = "Tell me something about the sea."
TOKENS = 16
STREAMS = 8
TIMEOUT_S = 60.0
CONTEXT_TOKENS = 1024
"""Of llama-server, for each slot."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Of some requests to one server."""

    firsts_s: list[float]
    """To the first token, one stream."""
    rate: float
    """Requests per second, STREAMS streams."""
    cpu_s: float
    """Processor time a request, of all that serve, STREAMS streams."""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """One that is asked."""

    name: str
    ask_in_turn: Callable[[int], Awaitable[list[float]]]
    """So many requests, one after the other: times to their first tokens."""
    ask_at_once: Callable[[int], Awaitable[None]]
    """So many requests of each of STREAMS streams."""
    cpu_s: Callable[[], float]
    """Processor time of all that serve, so far."""

    async def measure(self, requests: int) -> Measured:
        """So many requests in one stream, then as many in STREAMS."""
        firsts = await self.ask_in_turn(requests)
        each = max(1, requests // STREAMS)
        started, cpu_before = time.perf_counter(), self.cpu_s()
        await self.ask_at_once(each)
        rate = STREAMS * each / (time.perf_counter() - started)
        return Measured(firsts, rate, (self.cpu_s() - cpu_before) / (STREAMS * each))


@contextlib.asynccontextmanager
async def worker() -> AsyncIterator[Server]:
    """The runtime's worker process, asked as a daemon asks it, from this process."""
    runtime = LlamaRuntime(read_settings(MODEL, {}))
    request = GenerateRequest(
        model=MODEL,
        messages=(ChatMessage(role="user", content=PROMPT),),
        max_tokens=TOKENS,
        ignore_eos=True,
        temperature=0.0,
    )

    async def once() -> float:
        started = time.perf_counter()
        first = 0.0
        async with contextlib.aclosing(runtime.generate(request)) as events:
            async for event in events:
                if not first and isinstance(event, Chunk) and event.text:
                    first = time.perf_counter() - started
                assert not isinstance(event, Finished) or event.completion_tokens == TOKENS
        return first

    async def in_turn(count: int) -> list[float]:
        return [await once() for _ in range(count)]

    async def at_once(each: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS):
                nursery.start_soon(in_turn, each)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, lambda: None)
        with trio.fail_after(engine_servers.START_S):
            while runtime.card is None:  # noqa: ASYNC110
                await trio.sleep(0.05)
        pid = runtime.worker_pid
        assert pid is not None
        of_worker = engine_servers.cpu_of(pid)
        # This process is the daemon's part.
        yield Server(
            "its worker, asked directly",
            in_turn,
            at_once,
            lambda: of_worker() + time.process_time(),
        )
        nursery.cancel_scope.cancel()


def gateway(name: str, daemon: Daemon, *others: Daemon) -> Server:
    """A daemon's gateway; `others` work for it."""
    pids = (each.process.pid for each in (daemon, *others))
    return _over_http(name, int(daemon.url.rpartition(":")[2]), *pids)


@contextlib.asynccontextmanager
async def others(
    llama_server: pathlib.Path, litellm: pathlib.Path, folder: pathlib.Path
) -> AsyncIterator[tuple[Server, Server]]:
    """llama.cpp's own server of the demo model, and a LiteLLM proxy in front of it, whose settings
    go to `folder`.
    """
    command = engine_servers.llama_server_command(
        llama_server, DEMO_FILE, 1, slots=STREAMS, tokens=STREAMS * CONTEXT_TOKENS
    )
    async with engine_servers.http_server(command) as (port, pid):
        behind = litellm_proxy.command(litellm, port, folder)
        async with engine_servers.http_server(behind) as (proxy_port, proxy_pid):
            yield (
                # It closes the connection behind a streamed answer, and does not say so.
                _over_http("llama-server, asked directly", port, pid, is_kept=False),
                _over_http("LiteLLM in front of llama-server", proxy_port, proxy_pid, pid),
            )


def _over_http(name: str, port: int, *pids: int, is_kept: bool = True) -> Server:
    """A server that speaks OpenAI's dialect on a loopback port; `pids` are all that serve;
    `is_kept`: a connection is good for more than one request.
    """

    def ask_all(count: int) -> list[float]:
        # A new one each time: a server may have closed the one before, for it was idle.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            firsts = []
            for _ in range(count):
                firsts.append(ask(connection))
                if not is_kept:
                    connection.close()
            return firsts

    async def in_turn(count: int) -> list[float]:
        return await trio.to_thread.run_sync(ask_all, count)

    async def at_once(each: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS):
                nursery.start_soon(in_turn, each)

    return Server(name, in_turn, at_once, engine_servers.cpu_of(*pids))


def ask(
    connection: http.client.HTTPConnection, prompt: str = PROMPT, tokens: int = TOKENS
) -> float:
    """One streamed chat, which must be as long as was asked for; seconds to its first token."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    headers = {"content-type": "application/json"}
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first, reason = 0.0, None
    for choice in _choices(response):
        if not first and choice["delta"].get("content"):
            first = time.perf_counter() - started
        reason = choice.get("finish_reason") or reason
    assert reason == "length", reason
    return first


def _choices(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The choices of an event stream, to its end."""
    while line := response.readline():
        if line.startswith(b"data: {"):
            yield from json.loads(line.removeprefix(b"data: "))["choices"]
