"""The contract of runtimes/base.py for texts that are embedded or ranked, kept by every runtime."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable

import pytest
import trio

from runtimes.base import Chunk, Finished, Runtime, RuntimeFailure, Started
from runtimes.embedding import NUMBERS_MAX, EmbedRequest, Vector
from runtimes.limits import PROMPT_BYTES_MAX, TEXTS_MAX
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.helpers import test_runtime
from tests.runtimes.openai.behind_upstream import BehindUpstream
from tests.runtimes.serving import ask, needs_llama, serving, wait_idle, with_served

TEXTS = ("the cat sat on the mat", "a dog ran far", "the cat sat on the mat", "old, new?")
Make = Callable[[pathlib.Path], Runtime]


def make_llama(pooling: str, **options: str) -> Make:
    """The real runtime with a small model that pools so."""

    def make(folder: pathlib.Path) -> Runtime:
        import gguf

        from tests.helpers.embedding_models import write_bert, write_causal

        path = folder / f"{pooling}.gguf"
        write = write_causal if pooling == "LAST" else write_bert
        write(path, gguf.PoolingType[pooling])
        return LlamaRuntime(read_settings(str(path), options))

    return make


def make_scripted(dimensions: str, context: str = "64") -> Make:
    """The stand-in."""
    options = {"dimensions": dimensions, "context": context, "slots": "8"}
    return lambda _: test_runtime.create("echo", options=options)


def make_upstream(dimensions: str) -> Make:
    """The stand-in, reached over HTTP."""
    return lambda _: BehindUpstream(dimensions=dimensions, context="64", slots="8")


LLAMA = [pytest.mark.llama, needs_llama]
EMBEDDING = [
    pytest.param(make_llama("MEAN"), marks=LLAMA, id="llama-mean"),
    pytest.param(make_llama("CLS"), marks=LLAMA, id="llama-cls"),
    pytest.param(make_llama("LAST", context_tokens="64"), marks=LLAMA, id="llama-last"),
    pytest.param(make_scripted("8"), id="scripted"),
    pytest.param(make_upstream("8"), id="upstream"),
]
RANKING = [
    pytest.param(make_llama("RANK"), marks=LLAMA, id="llama-rank"),
    pytest.param(make_scripted("1"), id="scripted"),
    pytest.param(make_upstream("1"), id="upstream"),
]


@pytest.fixture(params=EMBEDDING)
def runtime(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Runtime:
    """One that embeds, not served yet."""
    make: Make = request.param
    return make(tmp_path)


@pytest.fixture(params=RANKING)
def ranker(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Runtime:
    """One that ranks, not served yet."""
    make: Make = request.param
    return make(tmp_path)


@dataclasses.dataclass(slots=True)
class Got:
    """All of one answer."""

    ids: tuple[int, ...]
    vectors: list[tuple[float, ...]]
    finished: Finished


async def embed(runtime: Runtime, *texts: str, **changes: object) -> Got:
    """Run one request to its end, which must be in order."""
    fields: dict[str, object] = {"model": "m", "texts": texts}
    request = EmbedRequest(**(fields | changes))  # type: ignore[arg-type]  # a test's shorthand
    async with contextlib.aclosing(runtime.generate(request)) as events:
        started, *vectors, finished = [event async for event in events]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert finished.completion_tokens == 0
    numbers = [vector.numbers for vector in vectors if isinstance(vector, Vector)]
    assert len(numbers) == len(vectors) == request.count
    return Got(started.prompt_token_ids, numbers, finished)


def close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two vectors are the same, up to rounding."""
    return len(one) == len(other) and math.dist(one, other) < 2e-3


async def failure(runtime: Runtime, *texts: str, **changes: object) -> RuntimeFailure:
    """What a request fails with; nothing of it is left."""
    with pytest.raises(RuntimeFailure) as failed:
        await embed(runtime, *texts, **changes)
    await wait_idle(runtime)
    return failed.value


def test_each_text_has_a_vector_of_length_one(runtime: Runtime) -> None:
    """In their order, all of one dimension, equal for equal texts only; tokens are counted."""

    async def test() -> None:
        got = await embed(runtime, *TEXTS)
        first, second, again, last = got.vectors
        assert {len(vector) for vector in got.vectors} == {len(first)}
        assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-3) for vector in got.vectors)
        assert close(first, again)
        assert not close(first, second)
        assert not close(second, last)
        assert got.finished.finish_reason == "stop"
        assert got.finished.prompt_tokens == len(got.ids) or not got.ids
        assert got.finished.prompt_tokens > 0

    with_served(runtime, test)


def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(runtime: Runtime) -> None:
    """Alone, in a batch, and beside another request."""

    async def test() -> None:
        (alone,) = (await embed(runtime, "a dog ran far")).vectors
        assert close((await embed(runtime, *TEXTS)).vectors[1], alone)
        got: dict[int, list[tuple[float, ...]]] = {}

        async def one(count: int) -> None:
            got[count] = (await embed(runtime, *(TEXTS * count))).vectors

        async with trio.open_nursery() as nursery:
            for count in range(1, 5):
                nursery.start_soon(one, count)
        for count, vectors in got.items():
            assert len(vectors) == count * len(TEXTS)
            assert all(close(vector, alone) for vector in vectors[1 :: len(TEXTS)])

    with_served(runtime, test)


def test_token_ids_are_taken_as_they_are(runtime: Runtime) -> None:
    """The tokens of a text have its vector; those that no vocabulary has are refused."""

    async def test() -> None:
        got = await embed(runtime, "a dog ran far")
        if got.ids:
            again = await embed(runtime, token_ids=(got.ids, got.ids[:2]))
            assert close(again.vectors[0], got.vectors[0])
            assert again.ids == (*got.ids, *got.ids[:2])
        for ids in ((-1,), (), (2**31,)):
            assert (await failure(runtime, token_ids=(ids,))).code == "bad_request"

    with_served(runtime, test)


def test_fewer_dimensions_are_the_first_ones_normalised(runtime: Runtime) -> None:
    """As OpenAI's models do it."""

    async def test() -> None:
        (whole,) = (await embed(runtime, TEXTS[0])).vectors
        half = whole[: len(whole) // 2]
        (short,) = (await embed(runtime, TEXTS[0], dimensions=len(half))).vectors
        length = math.hypot(*half)
        assert close(short, tuple(number / length for number in half))

    with_served(runtime, test)


def test_what_cannot_be_embedded_is_refused(runtime: Runtime) -> None:
    """Typed, and nothing is held afterwards."""

    async def test() -> None:
        too_long = await failure(runtime, "a dog", "the cat " * 100)
        assert too_long.code == "context_too_long"
        for changes in ({}, {"token_ids": ((1,),), "texts": ("a",)}, {"dimensions": 0}):
            assert (await failure(runtime, **changes)).code == "bad_request"
        assert (await failure(runtime, *(["a"] * 2049))).code == "bad_request"
        await embed(runtime, "a dog")

    with_served(runtime, test)


def test_more_texts_than_the_consumer_takes_at_once_all_come(runtime: Runtime) -> None:
    """Hundreds of vectors, taken one by one."""

    async def test() -> None:
        texts = [f"cat {number}" for number in range(300)]
        got = await embed(runtime, *texts)
        assert len(got.vectors) == 300
        assert close(got.vectors[299], (await embed(runtime, "cat 299")).vectors[0])

    with_served(runtime, test)


def test_leaving_in_the_middle_frees_the_slot(runtime: Runtime) -> None:
    """At once, and others are answered."""

    async def test() -> None:
        request = EmbedRequest(model="m", texts=TEXTS * 100)
        async with contextlib.aclosing(runtime.generate(request)) as events:
            async for event in events:
                if isinstance(event, Vector):
                    break
        await wait_idle(runtime)
        await embed(runtime, "a dog")

    with_served(runtime, test)


def test_what_embeds_does_not_chat_nor_rank(runtime: Runtime) -> None:
    """It is refused in one line, unless nobody knows what the model is made for."""

    async def test() -> None:
        card = runtime.card
        assert card is not None
        if card.runtime == "openai":
            assert set(card.tasks) == {"generate", "embed", "rerank"}
            return
        assert card.tasks == ("embed",)
        with pytest.raises(RuntimeFailure, match="made to embed and cannot generate") as failed:
            await anext(runtime.generate(ask()))
        assert failed.value.code == "bad_request"
        assert (await failure(runtime, "a", query="b")).code == "bad_request"

    with_served(runtime, test)


def test_each_text_has_a_score_for_the_query(ranker: Runtime) -> None:
    """One finite number each, that depends on both."""

    async def test() -> None:
        got = await embed(ranker, *TEXTS, query="a cat")
        assert {len(vector) for vector in got.vectors} == {1}
        first, second, again, _ = got.vectors
        assert close(first, again)
        assert not close(first, second)
        other = await embed(ranker, *TEXTS, query="dogs are far")
        assert not close(other.vectors[0], first)
        (alone,) = (await embed(ranker, TEXTS[1], query="a cat")).vectors
        assert close(alone, second)

    with_served(ranker, test)


def test_what_ranks_does_not_embed(ranker: Runtime) -> None:
    """And token ids have no query."""

    async def test() -> None:
        card = ranker.card
        assert card is not None
        if card.runtime != "openai":
            assert card.tasks == ("rerank",)
            assert (await failure(ranker, "a")).code == "bad_request"
        assert (await failure(ranker, token_ids=((1,),), query="a")).code == "bad_request"
        assert (await failure(ranker, "a", query="a", dimensions=1)).code == "bad_request"
        much = await failure(ranker, *["a"] * TEXTS_MAX, query="q" * (PROMPT_BYTES_MAX // 2_000))
        assert much.code == "bad_request"
        assert "the query beside each" in much.message

    with_served(ranker, test)


def test_what_generates_does_not_embed() -> None:
    """A model that says nothing of pooling has no vectors."""

    async def main() -> None:
        runtime = test_runtime.create("echo", options={})
        async with serving(runtime):
            with pytest.raises(RuntimeFailure, match="made to generate and cannot embed") as failed:
                await embed(runtime, "a")
            assert failed.value.code == "bad_request"
            async with contextlib.aclosing(runtime.generate(ask())) as events:
                assert any([isinstance(event, Chunk) async for event in events])

    trio.run(main)


def test_numbers_max_is_what_a_request_of_256_large_vectors_takes() -> None:
    """Nobody's usual request is refused."""
    assert NUMBERS_MAX >= 256 * 4096
