"""What a run may claim of an answer, against what has come of it."""

import pytest

from meshd.choosing import BYTES_PER_TOKEN, TEMPLATE_TOKENS_MAX, prompt_estimate
from meshd.continuing import Progress, RunUnfit
from runtimes.base import Chunk, Finished, GenerateRequest, ModelCard, Started
from runtimes.limits import CONTINUED_TOKENS_MAX, TOKENS_MAX

REQUEST = GenerateRequest(model="m", prompt="hello", max_tokens=10)
CARD = ModelCard(name="m", content_hash="ab" * 32, runtime="llama", context_tokens=8)
LIE = Finished("stop", TOKENS_MAX, TOKENS_MAX, TOKENS_MAX)


def _begun(request: GenerateRequest = REQUEST, ids: tuple[int, ...] = (1, 2, 3)) -> Progress:
    progress = Progress(request)
    progress.goes_on_with(None)
    assert progress.take(Started(ids)) == ()
    return progress


def test_tokens_are_those_that_came() -> None:
    """Whatever the end says of them, too many or too few."""
    for end in (LIE, Finished("stop", 0, 0)):
        progress = _begun()
        progress.take(Chunk((4, 5), "ab"))
        cached = min(end.cached_tokens, 3)
        assert progress.take(end)[-1] == Finished("stop", 3, 2, cached) == progress.finished


def test_a_run_that_goes_on_is_counted_with_what_came_before() -> None:
    """Once, by their ids."""
    progress = _begun()
    progress.take(Chunk((4, 5), "ab"))
    progress.next_request(None)
    progress.take(Started((1, 2, 3)))
    progress.take(Chunk((6,), "c"))
    assert progress.take(LIE)[-1] == Finished("stop", 3, 3, 5)


def test_without_ids_no_token_is_less_than_a_byte() -> None:
    """An upstream's counts are believed as far as its text and the prompt can bear them."""
    for claimed, told in ((Finished("stop", 9, 3), (9, 3)), (LIE, (None, 6))):
        progress = _begun(ids=())
        progress.take(Chunk((), "aé"))
        progress.take(Chunk((), "\ud800"))
        finished = progress.take(claimed)[-1]
        assert isinstance(finished, Finished)
        most = BYTES_PER_TOKEN * prompt_estimate(REQUEST) + TEMPLATE_TOKENS_MAX
        assert (finished.prompt_tokens, finished.completion_tokens) == (told[0] or most, told[1])


def test_tokens_beyond_what_was_asked_for_are_not_taken() -> None:
    """By the request, by the model's context, and where neither says so by what could be continued;
    what came before them stays.
    """
    small = _begun()
    small.take(Chunk(tuple(range(10)), ""))
    narrow = Progress(REQUEST)
    narrow.goes_on_with(CARD)
    narrow.take(Started((1, 2, 3)))
    narrow.take(Chunk(tuple(range(5)), ""))
    endless = _begun(GenerateRequest(model="m", prompt="hello"))
    endless.take(Chunk(tuple(range(CONTINUED_TOKENS_MAX)), ""))
    for progress, tokens in ((small, 10), (narrow, 5), (endless, CONTINUED_TOKENS_MAX)):
        with pytest.raises(RunUnfit, match="more tokens"):
            progress.take(Chunk((1,), ""))
        assert progress.tokens == tokens
