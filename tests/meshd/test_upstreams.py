"""Upstreams on loopback are found, and nothing else is."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog.testing
import trio

from meshd import upstreams
from meshd.upstreams import LOOK_S, FoundUpstream, find, offer
from tests.runtimes.openai.upstream import Hanging, Upstream, replying, sending

OLLAMA = [{"id": "llama3.2:3b", "owned_by": "library"}, {"id": "qwen3:8b", "owned_by": "library"}]


def with_servers(test: Callable[..., Awaitable[None]], *servers: Upstream) -> None:
    """Run `test(*servers)` while all of them listen."""

    async def main() -> None:
        with trio.fail_after(10):
            async with AsyncExitStack() as stack:
                for server in servers:
                    await stack.enter_async_context(server.running())
                await test(*servers)

    trio.run(main)


def server(models: list[dict[str, Any]], on_models: Any = None) -> Upstream:  # noqa: ANN401
    """An upstream with these models, or with this script in their place."""
    made = Upstream()
    made.models = models
    made.on_models = on_models
    return made


def test_what_is_there_is_found() -> None:
    """Its software, where it can be told, and how many models it has."""

    async def test(ollama: Upstream, other: Upstream) -> None:
        assert await find(skipped=(), ports=[other.port, ollama.port]) == [
            FoundUpstream(url=other.url, software="an OpenAI-compatible server", models=40),
            FoundUpstream(url=ollama.url, software="Ollama", models=2),
        ]

    with_servers(test, server(OLLAMA), server([{"id": f"m{number}"} for number in range(40)]))


@pytest.mark.parametrize(
    "script",
    [
        replying(200, {"data": []}),
        replying(200, {"data": [{"id": "m"}]}, "X-Meshd-Request: 1"),
        replying(200, b"<html>"),
        replying(401, {}),
        replying(302, b"", "Location: http://elsewhere/"),
        sending(b"220 mail ESMTP\r\n\r\n"),
        sending(),
    ],
)
def test_other_servers_are_left_alone(script: object) -> None:
    """No models, another meshd, a page, a closed door, another protocol."""

    async def test(other: Upstream) -> None:
        assert await find(skipped=(), ports=[other.port]) == []

    with_servers(test, server([], script))


def test_ports_that_are_skipped_are_not_even_touched() -> None:
    """The node's own, for example."""

    async def test(ollama: Upstream) -> None:
        assert await find(skipped={ollama.port}, ports=[ollama.port]) == []
        assert ollama.looks == 0

    with_servers(test, server(OLLAMA))


def test_servers_that_say_nothing_cost_half_a_second_together() -> None:
    """They are asked at the same time, and none of them for long."""

    async def test(*silent: Upstream) -> None:
        began = trio.current_time()
        assert await find(skipped=(), ports=[server.port for server in silent]) == []
        assert trio.current_time() - began < 2 * LOOK_S

    with_servers(test, *(server([], Hanging()) for _ in range(4)))


def test_a_key_is_never_sent_to_what_was_only_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the upstreams that were named."""
    monkeypatch.setenv("MESHD_UPSTREAM_KEY", "sk-secret")
    headers: list[dict[str, str]] = []

    async def note(seen: Any, stream: trio.SocketStream) -> None:  # noqa: ANN401  # a request
        headers.append(seen.headers)
        await replying(200, {"data": OLLAMA})(seen, stream)

    async def test(ollama: Upstream) -> None:
        assert len(await find(skipped=(), ports=[ollama.port])) == 1
        assert "authorization" not in headers[0]

    with_servers(test, server([], note))


def test_the_line_says_what_it_is_and_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each server; none for those that are given already, or are this node."""

    async def test(first: Upstream, given: Upstream, own: Upstream) -> None:
        ports = (first.port, given.port, own.port)
        monkeypatch.setattr(upstreams, "USUAL_PORTS", ports)
        with structlog.testing.capture_logs() as lines:
            await offer([f"http://localhost:{given.port}", "http://10.0.0.1:1"], [own.port])
        assert lines == [
            {
                "event": "upstream.found",
                "log_level": "info",
                "what": "Ollama",
                "models": 2,
                "mend": f"to offer them to the mesh: meshd up --upstream {first.url}",
            }
        ]

    with_servers(test, server(OLLAMA), server(OLLAMA), server(OLLAMA))
