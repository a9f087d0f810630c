"""A request's body as it arrives, from a scripted ASGI `receive`."""

import math

import pytest
import trio
import trio.testing
from starlette.datastructures import Headers
from starlette.types import Message

from meshd.gateway.errors import Refusal, meaning
from meshd.gateway.incoming import BodyBudget, Incoming
from meshd.gateway.limits import Limits

CHUNKED = Headers({"transfer-encoding": "chunked"})
GONE: Message = {"type": "http.disconnect"}


def piece(data: bytes, *, last: bool = False) -> Message:
    """A piece of a body."""
    return {"type": "http.request", "body": data, "more_body": not last}


async def read(
    messages: list[Message], limits: Limits, budget: BodyBudget, headers: Headers = CHUNKED
) -> bytes:
    """What `Incoming.read` makes of `messages`, which all are taken; whole, it is closed."""
    send, receive = trio.open_memory_channel[Message](math.inf)
    incoming = Incoming(receive.receive, headers, limits=limits, budget=budget)
    for message in [*messages, GONE]:
        send.send_nowait(message)
    await incoming.watch(lambda: None)
    assert receive.statistics().current_buffer_used == 0
    body = bytes(await incoming.read())
    incoming.close()
    return body


def test_pieces_make_a_body() -> None:
    """A body is its pieces, and empty pieces are none."""
    messages = [piece(b"ab"), piece(b""), piece(b"c"), piece(b"", last=True)]
    assert trio.run(read, messages, Limits(), BodyBudget(3)) == b"abc"


def test_a_request_without_a_body_has_all_of_it() -> None:
    """Nothing announced: nothing to wait for."""

    async def main() -> None:
        incoming = arriving(BodyBudget(0))
        assert incoming.is_complete
        assert await incoming.read() == b""

    trio.run(main)


def arriving(budget: BodyBudget) -> Incoming:
    """A body of which nothing has come yet."""
    return Incoming(trio.sleep_forever, Headers(), limits=Limits(), budget=budget)


@pytest.mark.parametrize("size", [100, 101])
def test_one_body_has_a_limit(size: int) -> None:
    """The limit itself fits; what is beyond it is dropped, and not counted as memory in use."""

    async def main() -> None:
        budget = BodyBudget(100)
        messages = [piece(b"x" * (size - 1)), piece(b"x"), *[piece(b"x" * 50)] * (size - 100)]
        limits = Limits(body_bytes_max=100)
        if size <= 100:
            assert len(await read([*messages, piece(b"", last=True)], limits, budget)) == size
        else:
            with pytest.raises(Refusal) as caught:
                await read(messages, limits, budget)
            assert meaning(caught.value).status == 413
        assert budget.take(100, arriving(budget))

    trio.run(main)


def test_an_announced_body_is_judged_before_it_comes() -> None:
    """Content-Length alone is enough to refuse."""
    headers = Headers({"content-length": "101"})
    with pytest.raises(Refusal) as caught:
        trio.run(read, [], Limits(body_bytes_max=100), BodyBudget(1000), headers)
    assert caught.value.code == "body_too_large"


def test_all_bodies_together_have_a_limit() -> None:
    """When other requests hold the memory a body is refused for now, and later it fits."""

    async def main() -> None:
        budget = BodyBudget(100)
        whole = [piece(b"x" * 60, last=True)]
        other = arriving(budget)
        assert budget.take(60, other)
        budget.has_arrived(other)
        with pytest.raises(Refusal) as caught:
            await read(whole, Limits(), budget)
        assert meaning(caught.value).status == 503
        budget.give_back(60)
        for _ in range(3):
            assert len(await read(whole, Limits(), budget)) == 60

    trio.run(main)


def test_what_arrives_slowly_gives_way() -> None:
    """Slow bodies that fill the memory keep no other one out; what has arrived stays."""

    async def main() -> None:
        budget = BodyBudget(100)
        send, receive = trio.open_memory_channel[Message](2)
        async with trio.open_nursery() as nursery:
            slow = Incoming(
                receive.receive, Headers({"content-length": "99"}), limits=Limits(), budget=budget
            )
            nursery.start_soon(slow.watch, lambda: None)
            whole = arriving(budget)
            assert budget.take(40, whole)
            budget.has_arrived(whole)
            await send.send(piece(b"x" * 60))
            await trio.testing.wait_all_tasks_blocked()
            assert len(await read([piece(b"x" * 60, last=True)], Limits(), budget)) == 60
            with pytest.raises(Refusal) as caught:
                await slow.read()
            assert caught.value.code == "overloaded"
            nursery.cancel_scope.cancel()

    trio.run(main)
