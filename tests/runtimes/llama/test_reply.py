"""One request in flight: bounded, exact in its credit, ended once."""

import pytest
import trio

from runtimes.base import Chunk, Finished, GenerateEvent, Logprob, RuntimeFailure, Started
from runtimes.llama.frames import CREDIT_TOKENS
from runtimes.llama.reply import Overflow, Reply

A, B = Logprob(1, b"a", -0.1), Logprob(2, b"b", -0.2)


class Ends:
    """Records what a reply asks of its link."""

    def __init__(self) -> None:
        self.ended = 0
        self.credits: list[int] = []
        self.left = 0
        self.reply = Reply(
            5, on_end=self._end, on_credit=self._credit, on_leave=lambda _reply: self._leave()
        )

    def _end(self) -> None:
        self.ended += 1

    def _credit(self, request: int, tokens: int) -> None:
        assert request == 5
        self.credits.append(tokens)

    def _leave(self) -> None:
        self.left += 1


def test_a_worker_beyond_its_credit_is_an_overflow() -> None:
    """Untaken, CREDIT_TOKENS fit; the next token is refused, so nothing grows."""

    async def main() -> None:
        ends = Ends()
        ends.reply.put(Started((1,)))
        for token in range(CREDIT_TOKENS):
            assert ends.reply.owes
            ends.reply.put(Chunk((token,), ""))
        assert not ends.reply.owes
        with pytest.raises(Overflow):
            ends.reply.put(Chunk((0,), ""))

    trio.run(main)


@pytest.mark.parametrize("event", [Started((1,)), Chunk((), "text")])
def test_frames_that_cost_no_credit_are_bounded_too(event: GenerateEvent) -> None:
    """Endless starts, or chunks without tokens, are an overflow."""

    async def main() -> None:
        ends = Ends()

        def flood() -> None:
            for _ in range(1000):
                ends.reply.put(event)

        with pytest.raises(Overflow):
            flood()

    trio.run(main)


def test_credit_comes_back_as_it_is_taken() -> None:
    """Over any number of tokens, what was given is what was taken, in a few large pieces."""

    async def main() -> None:
        ends = Ends()
        for _ in range(10 * CREDIT_TOKENS):
            chunk = Chunk((1,), "x")
            ends.reply.put(chunk)
            assert await ends.reply.next() == chunk
            ends.reply.take(chunk)
        assert sum(ends.credits) == 10 * CREDIT_TOKENS
        assert len(ends.credits) == 20

    trio.run(main)


def test_a_failure_comes_after_what_came_before_it() -> None:
    """Chunks that arrived are not lost, even when the queue is at its limit; then it is over."""

    async def main() -> None:
        ends = Ends()
        ends.reply.put(Started((1,)))
        for token in range(CREDIT_TOKENS):
            ends.reply.put(Chunk((token,), ""))
        ends.reply.fail(RuntimeFailure("crashed", "gone"))
        ends.reply.fail(RuntimeFailure("crashed", "gone again"))
        assert await ends.reply.next() == Started((1,))
        chunk = await ends.reply.next()
        assert isinstance(chunk, Chunk)
        assert chunk.token_ids == tuple(range(CREDIT_TOKENS))
        with pytest.raises(RuntimeFailure, match="gone"):
            await ends.reply.next()
        ends.reply.leave()
        assert (ends.ended, ends.left) == (1, 0)

    trio.run(main)


def test_chunks_that_nobody_has_taken_yet_become_one() -> None:
    """Tokens, text and probabilities in their order; what is taken in time stays as it came."""
    one, two = Chunk((1,), "a", ((A,),)), Chunk((2, 3), "bc", ((B,), (A, B)))

    async def main() -> None:
        reply = Ends().reply
        for chunk in (one, two):
            reply.put(chunk)
            assert await reply.next() == chunk
        for event in (Started((1,)), one, two, one, Finished("stop", 1, 4)):
            reply.put(event)
        assert await reply.next() == Started((1,))
        assert await reply.next() == Chunk((1, 2, 3, 1), "abca", ((A,), (B,), (A, B), (A,)))
        assert await reply.next() == Finished("stop", 1, 4)

    trio.run(main)


def test_leaving_asks_once_and_ends_with_the_confirmation() -> None:
    """Events after leaving go nowhere; the slot is free when the worker has confirmed."""

    async def main() -> None:
        ends = Ends()
        ends.reply.leave()
        ends.reply.leave()
        for token in range(CREDIT_TOKENS):
            ends.reply.put(Chunk((token,), ""))
        assert (ends.left, ends.ended) == (1, 0)
        assert not ends.reply.owes
        ends.reply.put(Finished("stop", 1, 1))
        ends.reply.end()
        assert ends.ended == 1

    trio.run(main)
