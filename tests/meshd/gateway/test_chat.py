"""Chat completions, streamed and not: the answer, its failures, and who stops what."""

import json
from typing import Any

import pytest
import trio
import trio.testing

from meshd.failures import RequestFailed
from meshd.gateway.limits import Limits
from protocol.outlook import NOTHING, Outlook
from runtimes.base import Chunk, Finished, Logprob, Started
from tests.meshd.gateway.fake_mesh import HELLO, FakeMesh, Step
from tests.meshd.gateway.raw_http import (
    CHAT,
    LIMITS,
    Reply,
    chat_bytes,
    gateway,
    read_reply,
    read_until,
    request_bytes,
)

TEXT = "Hello \u2028 wörld"
INTERRUPTED = RequestFailed("interrupted", "The node died.")


def events(reply: Reply) -> list[Any]:
    """The events of a streamed answer: parsed data, other lines as they are."""
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"\n\n")
    lines = reply.body.decode().removesuffix("\n\n").split("\n\n")
    return [
        json.loads(line[6:]) if line.startswith("data: {") else line.removeprefix("data: ")
        for line in lines
    ]


def test_answer_in_one_piece() -> None:
    """Text, usage, headers; and the mesh was asked what the client asked."""

    async def main() -> None:
        mesh = FakeMesh()
        async with gateway(mesh) as running:
            messages = [{"role": "user", "content": "Hi"}]
            fields = {"model": "org/demo", "messages": messages, "seed": 3, "user": "ann"}
            headers = {"x_meshd_node": "bert", "x_meshd_class": "batch"}
            body = json.dumps(fields).encode()
            reply = await running.ask("POST", "/v1/chat/completions", body, **headers)
            assert reply.status == 200
            assert reply.json["choices"][0]["message"]["content"] == TEXT
            assert reply.json["usage"]["total_tokens"] == 6
            assert reply.headers["x-meshd-node"] == "bert"
            assert reply.headers["x-meshd-node-id"] == "b" * 52
            assert reply.headers["x-meshd-resumed"] == "0"
            [(request, options)] = mesh.requests
            assert (request.model, request.seed) == ("org/demo", 3)
            assert (options.node, options.user, options.is_batch) == ("bert", "ann", True)
            assert reply.headers["x-meshd-request"] == options.request_id
            assert reply.json["id"] == f"chatcmpl-{options.request_id}"

    trio.run(main)


@pytest.mark.parametrize("with_usage", [False, True])
def test_streamed_answer(with_usage: bool) -> None:
    """Role first, then the text, the reason, usage if asked for, the comment, [DONE]."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            reply = await running.chat(stream=True, stream_options={"include_usage": with_usage})
            assert reply.headers["x-meshd-node"] == "bert"
            opening, *pieces, comment, done = events(reply)
            assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            if with_usage:
                counts = pieces.pop()
                assert counts["choices"] == []
                assert counts["usage"]["completion_tokens"] == 3
            ending = pieces.pop()
            assert ending["choices"][0]["finish_reason"] == "stop"
            texts = [piece["choices"][0]["delta"]["content"] for piece in pieces]
            assert "".join(texts) == TEXT
            assert comment == ": meshd nodes=bert continuations=0"
            assert done == "[DONE]"

    trio.run(main)


def test_logprobs_come_with_the_text() -> None:
    """Each token with its bytes and the likeliest in its place; a token without text has none."""
    a, b, end = Logprob(2, b"a", -0.5), Logprob(3, b"\xc3", -1.5), Logprob(9, b"", -0.1)
    steps = (
        Started((1,)),
        Chunk((2,), "a", ((a, a, b),)),
        Chunk((3,), "", ((b,),)),
        Chunk((9,), "", ((end, end),)),
        Finished("stop", 1, 3),
    )
    shown_a = {"token": "a", "logprob": -0.5, "bytes": [97]}
    shown_b = {"token": "\ufffd", "logprob": -1.5, "bytes": [195]}
    expected = [
        {**shown_a, "top_logprobs": [shown_a, shown_b]},
        {**shown_b, "top_logprobs": []},
    ]

    async def main() -> None:
        async with gateway(FakeMesh(steps)) as running:
            whole = (await running.chat(logprobs=True, top_logprobs=2)).json["choices"][0]
            assert whole["logprobs"] == {"content": expected, "refusal": None}
            pieces = events(await running.chat(stream=True, logprobs=True, top_logprobs=2))[:-2]
            told = [piece["choices"][0]["logprobs"] for piece in pieces]
            assert [each for some in told if some for each in some["content"]] == expected

    trio.run(main)


def test_an_answer_without_text() -> None:
    """Empty chunks make no events; the role and the reason still come."""

    async def main() -> None:
        steps = (Started((1,)), Chunk((5,), ""), Finished("stop", 1, 1))
        async with gateway(FakeMesh(steps)) as running:
            opening, ending, _, done = events(await running.chat(stream=True))
            assert opening["choices"][0]["delta"]["role"] == "assistant"
            assert ending["choices"][0]["finish_reason"] == "stop"
            assert done == "[DONE]"
            reply = await running.chat()
            assert reply.json["choices"][0]["message"]["content"] == ""

    trio.run(main)


def test_a_resumed_stream_names_all_nodes() -> None:
    """The closing comment tells who served after whom."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh((Started((1,)), Chunk((2,), "a"), gate, *HELLO[1:]))
        async with gateway(mesh) as running, await running.connect() as stream:
            await stream.send_all(chat_bytes(stream=True))
            await read_until(stream, b'"a"')
            assert mesh.answer is not None
            mesh.answer.node_name = "carl"
            mesh.answer.resumed = 1
            gate.set()
            rest = await read_until(stream, b"[DONE]")
            assert b": meshd nodes=bert,carl continuations=1\n\ndata: [DONE]" in rest

    trio.run(main)


@pytest.mark.parametrize("steps", [(INTERRUPTED,), (Started((1,)), INTERRUPTED), (Started((1,)),)])
def test_before_the_first_text_a_failure_has_its_status(steps: tuple[Step, ...]) -> None:
    """Also after a node has accepted: no headers were sent, so the client may retry by status."""

    async def main() -> None:
        async with gateway(FakeMesh(steps)) as running:
            for stream in (False, True):
                reply = await running.chat(stream=stream)
                assert reply.status == 502
                assert reply.error["code"] == "interrupted"

    trio.run(main)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (INTERRUPTED, "interrupted"),
        (ExceptionGroup("", [INTERRUPTED]), "interrupted"),
        (KeyError("secret"), "internal_error"),
    ],
)
def test_a_stream_that_breaks_says_so(failure: Exception, code: str) -> None:
    """One error event, no [DONE], and the HTTP answer ends properly."""

    async def main() -> None:
        steps = (Started((1,)), Chunk((2,), "a"), failure)
        async with gateway(FakeMesh(steps)) as running:
            reply = await running.chat(stream=True)
            assert reply.status == 200
            *_, piece, last = events(reply)
            assert piece["choices"][0]["delta"] == {"content": "a"}
            assert last["error"]["code"] == code
            assert b"secret" not in reply.body
            assert (await running.chat()).status in {500, 502}

    trio.run(main)


def test_silence_is_kept_alive() -> None:
    """Comments while nothing happens; headers leave with the first of them."""

    async def main() -> None:
        gate = trio.Event()
        mesh = FakeMesh((Started((1,)), gate, Chunk((2,), "a"), Finished("stop", 1, 1)))
        limits = Limits(sse_keep_alive_s=0.02)
        async with gateway(mesh, limits) as running, await running.connect() as stream:
            await stream.send_all(chat_bytes(stream=True))
            head = await read_until(stream, b": keep-alive\n\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"x-meshd-node: bert" in head
            await read_until(stream, b": keep-alive\n\n")
            gate.set()
            rest = await read_until(stream, b"[DONE]")
            assert b'"role":"assistant"' in rest

    trio.run(main)


@pytest.mark.parametrize(
    ("outlook", "words"),
    [
        (Outlook(place=2, percent=40, ready_in_s=12), b": meshd loading 40 %, about 12 s\n\n"),
        (Outlook(place=1, percent=7), b": meshd loading 7 %\n\n"),
        (Outlook(place=1, percent=0), b": meshd waiting for memory that other models have\n\n"),
        (Outlook(place=3), b": meshd queued, place 3\n\n"),
        (NOTHING, b": keep-alive\n\n"),
    ],
)
def test_who_waits_is_told_what_for(outlook: Outlook, words: bytes) -> None:
    """In comments, before any node has accepted it; who serves is told at the end, and a failure
    is the stream's last event. Who does not stream is told nothing.
    """

    async def main() -> None:
        mesh = FakeMesh(accept_after=trio.Event(), outlook=outlook)
        assert mesh.accept_after is not None
        limits = Limits(sse_keep_alive_s=0.05, sse_outlook_s=0.02)
        async with gateway(mesh, limits) as running:
            async with await running.connect() as stream, await running.connect() as whole:
                await stream.send_all(chat_bytes(stream=True))
                await whole.send_all(chat_bytes())
                head = await read_until(stream, words)
                assert head.startswith(b"HTTP/1.1 200")
                assert b"x-meshd-node" not in head
                await read_until(stream, words)
                mesh.accept_after.set()
                rest = await read_until(stream, b"[DONE]")
                assert b": meshd nodes=bert continuations=0" in rest
                assert (await read_reply(whole)).headers["x-meshd-node"] == "bert"
            mesh.accept_after, mesh.refuse = trio.Event(), RequestFailed("queue_full", "All busy.")
            async with await running.connect() as stream:
                await stream.send_all(chat_bytes(stream=True))
                await read_until(stream, words)
                mesh.accept_after.set()
                assert b'"code":"queue_full"' in await read_until(stream, b"}}")

    trio.run(main)


@pytest.mark.parametrize("where", ["before acceptance", "before the first text", "in the text"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("upgrade", [None, "h2c", "websocket"])
def test_a_client_that_leaves_cancels_the_generation(
    where: str, streamed: bool, upgrade: str | None
) -> None:
    """At once, at every stage, also while nothing is being sent to it."""

    async def main() -> None:
        never = trio.Event()
        mesh = FakeMesh((Started((1,)), Chunk((2,), "a"), never))
        if where == "before acceptance":
            mesh.accept_after = never
        elif where == "before the first text":
            mesh.steps = (Started((1,)), never)
        async with gateway(mesh) as running:
            stream = await running.connect()
            head, _, body = chat_bytes(stream=streamed).partition(b"\r\n\r\n")
            extra = b"\r\nconnection: upgrade\r\nupgrade: %b" % upgrade.encode() if upgrade else b""
            await stream.send_all(head + extra + b"\r\n\r\n" + body)
            await mesh.entered.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert mesh.running == 1
            await stream.aclose()
            with trio.fail_after(1):
                await mesh.left.wait()
            assert mesh.running == 0

    trio.run(main)


def test_a_client_that_does_not_read_holds_the_generation_back() -> None:
    """The generator runs ahead by what the kernel's buffers hold, and no further."""

    async def main() -> None:
        text = "x" * 65536
        mesh = FakeMesh((), endless=text)
        async with gateway(mesh) as running:
            stream = await running.connect(receive_buffer=4096)
            await stream.send_all(chat_bytes(stream=True))
            await mesh.entered.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)
            held_at = mesh.given
            assert 0 < held_at * len(text) < 16 * 1024 * 1024
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert mesh.given == held_at
            with trio.fail_after(2):
                while mesh.given == held_at:
                    await stream.receive_some(1024 * 1024)
            await stream.aclose()
            with trio.fail_after(1):
                await mesh.left.wait()

    trio.run(main)


def test_a_client_that_closes_its_sending_half_has_left() -> None:
    """Also while a write waits for it: the generation is cancelled at once, not when that ends."""

    async def main() -> None:
        mesh = FakeMesh((), endless="x" * 65536)
        async with gateway(mesh) as running, await running.connect(receive_buffer=4096) as stream:
            await stream.send_all(chat_bytes(stream=True))
            await mesh.entered.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert mesh.running == 1
            await stream.send_eof()
            with trio.fail_after(1):
                await mesh.left.wait()

    trio.run(main)


def test_a_client_that_never_reads_is_cut_off() -> None:
    """After the stall limit the generation is cancelled and the connection closed."""

    async def main() -> None:
        mesh = FakeMesh((), endless="x" * 65536)
        limits = Limits(write_stall_s=0.1)
        async with (
            gateway(mesh, limits) as running,
            await running.connect(receive_buffer=4096) as stream,
        ):
            await stream.send_all(chat_bytes(stream=True))
            with trio.fail_after(2):
                await mesh.left.wait()
            with pytest.raises(trio.BrokenResourceError):
                await stream_to_its_end(stream)

    trio.run(main)


async def stream_to_its_end(stream: trio.SocketStream) -> None:
    """Read on until the other side has closed; raises when it did so in the middle."""
    while await stream.receive_some(1024 * 1024):
        pass
    raise trio.BrokenResourceError("ended without an end")


def test_one_piece_has_a_limit() -> None:
    """An answer that never ends is not collected for ever."""

    async def main() -> None:
        mesh = FakeMesh((), endless="x" * 1000)
        async with gateway(mesh, Limits(answer_chars_max=100_000)) as running:
            reply = await running.chat()
            assert (reply.status, reply.error["code"]) == (502, "interrupted")
            assert mesh.given <= 101
            assert mesh.running == 0

    trio.run(main)


def test_a_slow_reader_does_not_hold_the_node() -> None:
    """A whole answer is sent after the generation was left."""

    async def main() -> None:
        steps = (Started((1,)), Chunk((2,), "x" * 6_000_000), Finished("stop", 1, 1))
        mesh = FakeMesh(steps)
        async with gateway(mesh) as running, await running.connect(receive_buffer=4096) as stream:
            await stream.send_all(chat_bytes())
            await mesh.left.wait()
            reply = await read_reply(stream)
            assert len(reply.json["choices"][0]["message"]["content"]) == 6_000_000

    trio.run(main)


def test_demands_in_headers_reach_the_mesh() -> None:
    """Labels may come in several headers, and in one between commas."""

    async def main() -> None:
        mesh = FakeMesh()
        async with gateway(mesh) as running:
            headers = {
                "x-meshd-label": "gpu=big, zone=k\xc3\xbcche",
                "X-Meshd-Label": "owner=anna",
                "x-meshd-tier": "2",
                "x-meshd-quantization": "any",
            }
            body = json.dumps(CHAT).encode()
            request = request_bytes("POST", "/v1/chat/completions", body, **headers)
            async with await running.connect() as stream:
                await stream.send_all(request)
                assert (await read_reply(stream)).status == 200
        [(_, options)] = mesh.requests
        assert options.labels == {"gpu": "big", "zone": "küche", "owner": "anna"}
        assert (options.tier_max, options.any_quantization) == (2, True)

    trio.run(main)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-meshd-node", ""),
        ("x-meshd-node", "n" * 129),
        ("x-meshd-node", "\xfc"),
        ("x-meshd-trusted", "perhaps"),
        ("x-meshd-hedge", "2"),
        ("x-meshd-wait", "2"),
        ("x-meshd-label", "gpu"),
        ("x-meshd-label", "gpu=big, gpu=small"),
        ("x-meshd-label", "=big"),
        ("x-meshd-label", "zone=k\xfcche"),
        ("x-meshd-label", ""),
        ("x-meshd-label", "a=" + "x" * 5000),
        ("x-meshd-tier", "0"),
        ("x-meshd-tier", "2.5"),
        ("x-meshd-quantization", "less"),
        ("x-meshd-policy", "as_you_like"),
        ("x-meshd-class", "first"),
    ],
)
def test_demands_in_headers_are_met_or_refused(name: str, value: str) -> None:
    """No demand is silently ignored."""

    async def main() -> None:
        async with gateway(FakeMesh()) as running:
            request = request_bytes("POST", "/v1/chat/completions", b"{}", **{name: value})
            async with await running.connect() as stream:
                await stream.send_all(request)
                reply = await read_reply(stream)
                assert (reply.status, reply.error["param"]) == (400, name)

    trio.run(main)


def test_answers_end_by_limits_of_the_test_suite() -> None:
    """The suite's own limits are stricter than the defaults only where time passes."""
    assert LIMITS.body_bytes_max == Limits().body_bytes_max
    assert LIMITS.shutdown_s < Limits().shutdown_s < 10
