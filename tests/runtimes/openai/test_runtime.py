"""One model of an upstream: streaming, refusals, broken streams, cancelling."""

import contextlib
import dataclasses
from typing import Any

import pytest
import trio
import trio.testing

from runtimes.base import (
    ChatMessage,
    Chunk,
    Finished,
    GenerateRequest,
    Load,
    Runtime,
    RuntimeFailure,
    Started,
)
from runtimes.openai.event_lines import LINE_BYTES_MAX
from runtimes.openai.runtime import PIECE_CHARACTERS_MAX
from tests.runtimes.openai.upstream import (
    DONE,
    STREAM_HEAD,
    Hanging,
    Script,
    Upstream,
    event_of,
    replying,
    said,
    saying,
    sending,
    source_served,
    streaming,
    with_runtime,
)
from tests.runtimes.serving import Completion, complete, wait_idle

ASK = GenerateRequest(model="m", messages=(ChatMessage(role="user", content="Hi"),))
END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def answer(script: Script, **settings: Any) -> Completion:  # noqa: ANN401  # any setting
    """One whole answer."""
    found: list[Completion] = []

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        found.append(await complete(runtime, ASK))
        assert runtime.load == Load(queued=0, running=0, slots=8)

    with_runtime(script, test, **settings)
    return found[0]


def failure(script: Script, **settings: Any) -> RuntimeFailure:  # noqa: ANN401  # any setting
    """How one request fails; it leaves its slot."""
    found: list[RuntimeFailure] = []

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        with pytest.raises(RuntimeFailure) as failed:
            await complete(runtime, ASK)
        assert runtime.load.running == 0
        found.append(failed.value)

    with_runtime(script, test, **settings)
    assert found[0].message.isprintable()
    return found[0]


def test_an_answer_is_streamed() -> None:
    """Started without ids, a chunk for each delta, the upstream's own counts."""
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    assert answer(saying("Hel", "lo", reason="length", usage=usage)).events == [
        Started(()),
        Chunk((), "Hel"),
        Chunk((), "lo"),
        Finished("length", 12, 3),
    ]


def test_a_prompt_is_a_completion() -> None:
    """It goes to the other endpoint, and its text stands elsewhere."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        completion = await complete(runtime, GenerateRequest(model="m", prompt="Once"))
        assert completion.text == "upon"
        assert upstream.seen[0].path == "/v1/completions"
        assert upstream.seen[0].json["prompt"] == "Once"

    script = streaming(
        {"choices": [{"text": "upon", "finish_reason": None}]},
        {"choices": [{"text": "", "finish_reason": "stop"}]},
    )
    with_runtime(script, test)


def test_tokens_come_as_they_are_made() -> None:
    """The first delta arrives while the upstream has not sent the second."""
    script = Hanging(STREAM_HEAD, event_of(said("first")))

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        async with contextlib.aclosing(runtime.generate(ASK)) as events:
            assert await anext(events) == Started(())
            assert await anext(events) == Chunk((), "first")

    with_runtime(script, test)


def test_the_key_is_sent_and_not_shown() -> None:
    """Not even when the upstream repeats it in its complaint."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        with pytest.raises(RuntimeFailure) as failed:
            await complete(runtime, ASK)
        assert upstream.seen[0].headers["authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in failed.value.message

    script = replying(400, {"error": {"message": "sk-secret must not say Hi"}})
    with_runtime(script, test, api_key="sk-secret")


def test_no_key_is_no_header() -> None:
    """Nor is any proxy or password of the environment used."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        await complete(runtime, ASK)
        assert "authorization" not in upstream.seen[0].headers

    with_runtime(saying("Hi"), test)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (replying(400, {"error": {"message": "bad temperature"}}), "bad_request"),
        (replying(400, {"error": {"message": "maximum context length is 8"}}), "context_too_long"),
        (replying(401, {}), "unavailable"),
        (replying(404, {"error": "model not found"}), "unavailable"),
        (replying(302, b"", "Location: http://127.0.0.1:1/"), "unavailable"),
        (replying(429, {}), "queue_full"),
        (replying(503, {}), "queue_full"),
        (replying(500, b"<html>"), "crashed"),
        (replying(500, b"x" * 1_000_000), "crashed"),
        (replying(200, {"choices": [{"message": {"content": "whole"}}]}), "crashed"),
        (replying(200, b"<html>", "Content-Type: text/html"), "crashed"),
        (replying(200, b"x", "Content-Encoding: gzip"), "crashed"),
        (streaming({"error": {"code": 400, "message": "exceeds n_ctx"}}), "context_too_long"),
        (streaming(said("a"), {"error": {"message": "CUDA out of memory"}}), "crashed"),
    ],
)
def test_what_an_upstream_says_instead_of_an_answer(script: Script, code: str) -> None:
    """Each refusal has its code, and the slot is free."""
    assert failure(script).code == code


@pytest.mark.parametrize(
    ("header", "words"),
    [("Content-Type: application/json", "not stream"), ("Content-Encoding: gzip", "compresses")],
)
def test_a_stream_in_another_dress_is_not_guessed_at(header: str, words: str) -> None:
    """What the headers say counts, and the line tells what is wrong."""
    head = f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode()
    failed = failure(sending(head, event_of(said("a")), event_of(END), DONE))
    assert failed.code == "crashed"
    assert words in failed.message


@pytest.mark.parametrize(
    "script",
    [
        sending(),
        sending(b"SSH-2.0-OpenSSH_9\r\n"),
        sending(b"HTTP/1.1 200 OK\r\n"),
        sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000),
        sending(STREAM_HEAD),
        sending(STREAM_HEAD, event_of(said("a"))),
        sending(STREAM_HEAD, DONE),
        sending(STREAM_HEAD, b"hello\n\n"),
        sending(STREAM_HEAD, b"data: {\n\n"),
        sending(STREAM_HEAD, b"data: " + b"x" * (LINE_BYTES_MAX + 1)),
        sending(STREAM_HEAD, event_of(said("a"))[:-20]),
        sending(STREAM_HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\nzz\r\n"),
        sending(STREAM_HEAD[:-2] + b"Content-Length: 100\r\n\r\n", event_of(END)[:-20]),
        sending(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    ],
)
def test_broken_and_nonsensical_answers(script: Script) -> None:
    """Each is `crashed`; half an answer is never taken for a whole one."""
    assert failure(script).code == "crashed"


def test_a_huge_answer_in_one_piece_is_passed_on_in_pieces() -> None:
    """No chunk is larger than a frame between peers can be."""
    text = "é" * (PIECE_CHARACTERS_MAX + 1)
    completion = answer(saying(text))
    assert completion.text == text
    assert len(completion.chunks) == 2
    assert completion.finished.completion_tokens == 1


def test_an_answer_without_its_last_line_is_whole() -> None:
    """Once the reason has come, the stream may end as it likes."""
    for tail in (b"", event_of({"choices": [], "usage": None})[:-2], b"data: [DONE]"):
        completion = answer(sending(STREAM_HEAD, event_of(said("a")), event_of(END), tail))
        assert completion.finished == Finished("stop", 0, 1)


def test_nobody_waits_long_for_the_counts() -> None:
    """An upstream that keeps the stream open after its last token is left."""
    script = Hanging(STREAM_HEAD, event_of(said("a")), event_of(END))
    assert answer(script, usage_s=0.05).finished == Finished("stop", 0, 1)
    assert script.has_hung_up.is_set()


@pytest.mark.parametrize(
    "pieces", [[], [b"HTTP/1.1 200 OK\r\n"], [STREAM_HEAD], [STREAM_HEAD, event_of(said("a"))]]
)
def test_silence_has_an_end(pieces: list[bytes]) -> None:
    """Before the headers, before the first byte, between two tokens."""
    script = Hanging(*pieces)
    failed = failure(script, first_byte_s=0.1, silence_s=0.1)
    assert failed.code == "crashed"
    assert "silent" in failed.message
    assert script.has_hung_up.is_set()


@pytest.mark.parametrize(
    "pieces", [[], [STREAM_HEAD], [STREAM_HEAD, event_of(said("a")), event_of(said("b"))]]
)
def test_a_cancelled_request_closes_its_connection_at_once(pieces: list[bytes]) -> None:
    """Whatever it was waiting for; the slot is free as soon as the consumer is gone."""
    script = Hanging(*pieces)

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(complete, runtime, ASK)
            await script.is_asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert runtime.load.running == 1
            nursery.cancel_scope.cancel()
        assert runtime.load.running == 0
        with trio.fail_after(1):
            await script.has_hung_up.wait()

    with_runtime(script, test)


def test_leaving_after_a_chunk_closes_the_connection() -> None:
    """The same for a consumer that has had enough."""
    script = Hanging(STREAM_HEAD, event_of(said("a")), event_of(said("b")))

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        async with contextlib.aclosing(runtime.generate(ASK)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    break
        await wait_idle(runtime)
        with trio.fail_after(1):
            await script.has_hung_up.wait()

    with_runtime(script, test)


def test_a_slow_consumer_holds_the_upstream_back() -> None:
    """What nobody takes is not read: memory does not grow with the answer."""
    sent = 0
    event = event_of(said("x" * 1000))

    async def flood(seen: object, stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.send_all(STREAM_HEAD)
        while True:
            await stream.send_all(event)
            sent += len(event)

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        async with contextlib.aclosing(runtime.generate(ASK)) as events:
            await anext(events)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert sent < 32 * 2**20  # what sockets' buffers may hold
            before = sent
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert sent == before

    with_runtime(flood, test, look_s=60.0)


def test_slots_are_as_many_as_asked() -> None:
    """One request more waits, one beyond the queue is refused at once."""
    script = Hanging(STREAM_HEAD, event_of(said("a")))

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(complete, runtime, ASK)
            await script.is_asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert runtime.load == Load(queued=1, running=2, slots=2)
            assert len(upstream.seen) == 2
            with pytest.raises(RuntimeFailure) as refused:
                await complete(runtime, ASK)
            assert refused.value.code == "queue_full"
            nursery.cancel_scope.cancel()

    with_runtime(script, test, slots=2, queue_max=1)


def test_two_upstreams_are_never_interchangeable() -> None:
    """Not even at one address with one id: that may be two machines."""

    async def main() -> None:
        async with (
            Upstream().running() as upstream,
            source_served(upstream.url) as one,
            source_served(upstream.url) as other,
        ):
            hashes = set()
            for served in (one, other):
                await served.until(lambda served=served: served.names == ["m"])  # type: ignore[misc]  # bound now
                card = served.source.runtimes[0].card
                assert card is not None
                assert card.runtime == "openai"
                assert card.content_hash.startswith("upstream-")
                hashes.add(card.content_hash)
            assert len(hashes) == 2

    trio.run(main)


def test_what_cannot_succeed_is_refused_here() -> None:
    """Nonsense never reaches the upstream."""

    async def test(runtime: Runtime, upstream: Upstream) -> None:
        for request in (
            GenerateRequest(model="m", prompt=""),
            dataclasses.replace(ASK, temperature=-1.0),
        ):
            with pytest.raises(RuntimeFailure) as failed:
                await complete(runtime, request)
            assert failed.value.code == "bad_request"
        assert upstream.seen == []

    with_runtime(saying("Hi"), test)
