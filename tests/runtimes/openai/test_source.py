"""An upstream's models: there when it lists them, gone when it is gone."""

import contextlib
from typing import Any

import pytest
import trio
import trio.testing

from runtimes.base import ChatMessage, Chunk, GenerateRequest, RuntimeFailure, Source
from runtimes.openai import create
from tests.runtimes.openai.upstream import (
    STREAM_HEAD,
    TIMEOUT_S,
    Hanging,
    Seen,
    ServedSource,
    Upstream,
    event_of,
    replying,
    said,
    saying,
    sending,
    source_served,
)
from tests.runtimes.serving import complete

ASK = GenerateRequest(model="m", messages=(ChatMessage(role="user", content="Hi"),))


@contextlib.asynccontextmanager
async def up(upstream: Upstream, **settings: Any) -> Any:  # noqa: ANN401  # any setting
    """A running upstream and its source, with its models there."""
    with trio.fail_after(TIMEOUT_S):
        async with upstream.running(), source_served(upstream.url, **settings) as served:
            await served.until(lambda: bool(served.names))
            yield served


async def ask(source: Source, seen: list[str]) -> None:
    """One request; `seen` gets the texts, and the code of its failure."""
    try:
        async with contextlib.aclosing(source.runtimes[0].generate(ASK)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    seen.append(event.text)
    except RuntimeFailure as failure:
        seen.append(failure.code)


def test_models_come_and_go() -> None:
    """Each look makes the offer what the upstream lists; what stays is the same runtime."""

    async def main() -> None:
        upstream = Upstream()
        upstream.models = [{"id": "a"}, {"id": "b", "max_model_len": 100}]
        async with up(upstream) as served:
            assert served.names == ["a", "b"]
            b = served.source.runtimes[1]
            upstream.models = [{"id": "b", "max_model_len": 200}, {"id": "c"}]
            await served.until(lambda: served.names == ["b", "c"])
            assert served.source.runtimes[0] is b
            assert b.card is not None
            assert b.card.context_tokens == 200
            upstream.models = []
            await served.until(lambda: served.names == [])
            assert b.card is None
            with pytest.raises(RuntimeFailure) as failed:
                await complete(b, ASK)
            assert failed.value.code == "unavailable"
            assert "load one" in (served.source.advice or "")

    trio.run(main)


def test_nothing_is_said_when_nothing_changed() -> None:
    """Looks alone wake nobody."""

    async def main() -> None:
        upstream = Upstream()
        async with up(upstream) as served:
            changes = 0

            def count() -> None:
                nonlocal changes
                changes += 1

            served.on_change = count
            served.source._on_change = count
            looks = upstream.looks
            while upstream.looks < looks + 3:
                await trio.testing.wait_all_tasks_blocked()
                await trio.lowlevel.checkpoint()
            assert changes == 0

    trio.run(main)


def test_a_death_takes_the_models_and_breaks_off_what_runs() -> None:
    """The request that runs is `crashed`, and the look that follows takes the models away."""

    async def main() -> None:
        upstream = Upstream(Hanging(STREAM_HEAD, event_of(said("a"))))
        # Looks are far apart: it is the broken stream that makes the source look at once.
        async with up(upstream, look_s=60.0) as served, trio.open_nursery() as nursery:
            seen: list[str] = []
            nursery.start_soon(ask, served.source, seen)
            assert isinstance(upstream.script, Hanging)
            await upstream.script.is_asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            await upstream.die()
            await served.until(lambda: served.names == [])
            assert "refused" in (served.source.advice or "")
            nursery.cancel_scope.deadline = trio.current_time() + 1
        assert seen == ["a", "crashed"]

    trio.run(main)


def test_a_host_that_vanishes_takes_what_runs_with_it() -> None:
    """Its streams never end by themselves: the next look ends them."""

    async def main() -> None:
        upstream = Upstream(Hanging(STREAM_HEAD, event_of(said("a"))))
        async with up(upstream) as served, trio.open_nursery() as nursery:
            seen: list[str] = []
            nursery.start_soon(ask, served.source, seen)
            assert isinstance(upstream.script, Hanging)
            await upstream.script.is_asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            await upstream.vanish()
            await served.until(lambda: served.names == [])
        assert seen == ["a", "crashed"]

    trio.run(main)


def test_a_request_that_finds_nobody_takes_the_models_away_at_once() -> None:
    """Not at the next look, but in the same breath."""

    async def main() -> None:
        upstream = Upstream()
        async with up(upstream, look_s=60.0) as served:
            runtime = served.source.runtimes[0]
            await upstream.die()
            assert served.names == ["m"]
            with pytest.raises(RuntimeFailure) as failed:
                await complete(runtime, ASK)
            assert failed.value.code == "unavailable"
            assert served.names == []
            assert runtime.card is None

    trio.run(main)


def test_an_idle_upstreams_death_is_seen_by_the_next_look() -> None:
    """And so is its return, without a word from anybody."""

    async def main() -> None:
        upstream = Upstream(saying("again"))
        async with up(upstream) as served:
            await upstream.die()
            await served.until(lambda: served.names == [])
            async with upstream.running():
                await served.until(lambda: served.names == ["m"])
                assert served.source.advice is None
                assert (await complete(served.source.runtimes[0], ASK)).text == "again"

    trio.run(main)


def test_an_upstream_that_is_not_there_yet_is_waited_for() -> None:
    """The line that is shown meanwhile names it and the reason."""

    async def main() -> None:
        upstream = Upstream()
        async with upstream.running():
            pass  # now it has a port, and nobody listens there
        with trio.fail_after(TIMEOUT_S):
            async with source_served(upstream.url) as served:
                await served.until(lambda: served.source.advice is not None)
                assert upstream.url in (served.source.advice or "")
                assert "(connection refused)" in (served.source.advice or "")
                async with upstream.running():
                    await served.until(lambda: served.names == ["m"])

    trio.run(main)


def test_a_host_that_cannot_exist_is_said_in_one_line() -> None:
    """A name that no resolver takes is an upstream that cannot be reached."""

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with source_served("http://a..b:1") as served:
                await served.until(lambda: served.source.advice is not None)
                assert "cannot be reached" in (served.source.advice or "")
                assert (served.source.advice or "").isprintable()

    trio.run(main)


def test_a_silent_upstream_is_dead_when_idle_and_busy_when_it_works() -> None:
    """A look that gets no answer takes the models only if no request runs."""

    async def main() -> None:
        upstream = Upstream(Hanging(STREAM_HEAD, event_of(said("a"))))
        async with up(upstream, look_timeout_s=0.05) as served:
            runtime = served.source.runtimes[0]
            async with contextlib.aclosing(runtime.generate(ASK)) as events:
                await anext(events)
                upstream.on_models = Hanging()
                looks = upstream.looks
                while upstream.looks < looks + 3:
                    await trio.lowlevel.checkpoint()
                assert served.names == ["m"]
            await served.until(lambda: served.names == [])

    trio.run(main)


def test_a_server_that_takes_one_request_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama_cpp.server would cut the answer short for a second request, a look included."""

    async def main() -> None:
        upstream = Upstream(Hanging(STREAM_HEAD, event_of(said("a"))))
        upstream.models = [{"id": "a", "owned_by": "me"}, {"id": "b", "owned_by": "me"}]
        async with up(upstream, look_s=0.02) as served, trio.open_nursery() as nursery:
            a, b = served.source.runtimes
            turn_of, turns = trio.open_memory_channel[None](0)
            look_in_turn = served.source._look_in_turn

            async def look() -> bool:
                is_up: bool = await look_in_turn()
                with contextlib.suppress(trio.WouldBlock):
                    turn_of.send_nowait(None)
                return is_up

            monkeypatch.setattr(served.source, "_look_in_turn", look)
            assert a.load.slots == 1
            async with contextlib.aclosing(a.generate(ASK)) as events:
                await anext(events)
                nursery.start_soon(complete, b, ASK)
                looks = upstream.looks
                for _ in range(3):
                    await turns.receive()
                assert upstream.looks == looks
                assert len(upstream.seen) == 1
            while len(upstream.seen) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("base", ["", "/v1", "/deep/er", "/deep/v1"])
def test_the_endpoints_are_found_with_and_without_v1(base: str) -> None:
    """However the URL is written, requests go where the list was."""

    async def main() -> None:
        upstream = Upstream()
        upstream.base = base
        with trio.fail_after(TIMEOUT_S):
            async with (
                upstream.running(),
                source_served(upstream.url + base.removesuffix("/v1")) as served,
            ):
                await served.until(lambda: served.names == ["m"])
                await complete(served.source.runtimes[0], ASK)
                looks = upstream.looks
                while upstream.looks < looks + 3:
                    await trio.lowlevel.checkpoint()
                assert set(upstream.looked_at[looks:]) == {f"{base}/models"}
        assert upstream.seen[0].path == f"{base}/chat/completions"

    trio.run(main)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (replying(200, {"data": []}, "X-Meshd-Request: 1"), "meshd gateway"),
        (replying(401, {"error": {"message": "no"}}), "MESHD_UPSTREAM_KEY"),
        (replying(302, b"", "Location: /x"), "redirects"),
        (replying(200, b"<html>"), "no JSON"),
        (replying(200, {"data": 5}), "no list"),
        (replying(200, b" " * 3_000_000), "bytes"),
        (replying(500, {}), "failed"),
        (sending(b"HTTP/1.1 200 OK\r\n\r\n", b"{"), "no JSON"),
        (sending(b"220 mail ESMTP\r\n\r\n"), "HTTP"),
        (sending(), "closed the connection"),
    ],
)
def test_what_is_no_upstream_is_said_in_one_line(script: Any, words: str) -> None:  # noqa: ANN401
    """No models, and a line that says why; the source goes on looking."""

    async def main() -> None:
        upstream = Upstream()
        upstream.on_models = script
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), source_served(upstream.url) as served:
                await served.until(lambda: served.source.advice is not None)
                assert words in (served.source.advice or "")
                assert (served.source.advice or "").isprintable()
                assert served.names == []
                upstream.on_models = None
                await served.until(lambda: served.names == ["m"])

    trio.run(main)


def test_models_that_are_left_out_are_told() -> None:
    """The mesh gets the first ones, and the person a line."""

    async def main() -> None:
        upstream = Upstream()
        upstream.models = [{"id": f"m{number}"} for number in range(40)]
        async with up(upstream) as served:
            assert len(served.names) == 32
            assert "8 models" in (served.source.advice or "")

    trio.run(main)


def test_the_end_of_serving_is_the_end_of_the_models() -> None:
    """Requests that run then are broken off, and the change is told."""

    async def main() -> None:
        upstream = Upstream(Hanging(STREAM_HEAD, event_of(said("a"))))
        with trio.fail_after(TIMEOUT_S):
            async with upstream.running(), trio.open_nursery() as nursery:
                source = create(upstream.url, options={})
                served = ServedSource(source)  # type: ignore[arg-type]  # it is one
                scope = trio.CancelScope()

                async def serve() -> None:
                    with scope:
                        await source.serve(served.on_change)

                nursery.start_soon(serve)
                await served.until(lambda: served.names == ["m"])
                seen: list[str] = []
                nursery.start_soon(ask, source, seen)
                assert isinstance(upstream.script, Hanging)
                await upstream.script.is_asked.wait()
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await served.until(lambda: source.runtimes == ())
            assert seen == ["a", "crashed"]

    trio.run(main)


def test_a_look_has_a_limit_in_time() -> None:
    """An upstream that drips bytes is as silent as one that sends none."""

    async def drip(seen: Seen, stream: trio.SocketStream) -> None:
        del seen
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.01)

    async def main() -> None:
        upstream = Upstream()
        upstream.on_models = drip
        with trio.fail_after(TIMEOUT_S):
            async with (
                upstream.running(),
                source_served(upstream.url, look_timeout_s=0.1) as served,
            ):
                await served.until(lambda: served.source.advice is not None)
                assert "silent" in (served.source.advice or "")

    trio.run(main)
