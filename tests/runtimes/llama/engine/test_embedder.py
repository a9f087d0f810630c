"""Embedding and ranking by llama.cpp: the numbers are its own, and nobody waits for anybody."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from runtimes.base import RuntimeFailure
from runtimes.embedding import Vector
from runtimes.llama.engine.embedder import Embedder
from runtimes.llama.engine.model import open_model
from runtimes.llama.frames import Embed, Embedded, Ended, Failed
from tests.runtimes.llama.engines import make_embedder, make_load
from tests.runtimes.serving import needs_llama

gguf = pytest.importorskip("gguf", reason="the [dev] extra is not installed")
pytestmark = [pytest.mark.llama, needs_llama]

TEXTS = ["the cat", "a dog ran far", "the cat sat on the mat, old dog.", "x", "the cat"]
MASK = 4
STEPS_MAX = 1_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """By how they pool."""
    from tests.helpers.embedding_models import write_bert, write_causal

    folder = tmp_path_factory.mktemp("embedding")
    paths = {name: folder / f"{name}.gguf" for name in ("NONE", "MEAN", "CLS", "LAST", "RANK")}
    for name, path in paths.items():
        write = write_causal if name == "LAST" else write_bert
        write(path, gguf.PoolingType[name])
    return paths


def embed(number: int, *texts: str, **changes: object) -> Embed:
    """A request with changes to it."""
    fields: dict[str, object] = {"token_ids": (), "query": None, "dimensions": None}
    return Embed(request=number, texts=texts, **(fields | changes))  # type: ignore[arg-type]  # a test's shorthand


def run(embedder: Embedder, request: Embed) -> list[tuple[float, ...]]:
    """All vectors of one request."""
    ids, _ = embedder.open(request)
    results: list[Embedded | Ended | Failed] = []
    for _ in range(STEPS_MAX):
        results += embedder.step({request.request: 64})
        if isinstance(results[-1], Ended):
            break
    *vectors, ended = results
    assert isinstance(ended, Ended)
    assert ended.prompt_tokens == len(ids)
    return [Vector.read(each.data).numbers for each in vectors if isinstance(each, Embedded)]


def reference(path: pathlib.Path, tokens: int = 512) -> Any:  # noqa: ANN401  # an untyped library
    """llama-cpp-python's own."""
    from llama_cpp import Llama

    sizes: dict[str, Any] = {"n_ctx": tokens, "n_batch": tokens, "n_ubatch": tokens}
    return Llama(str(path), embedding=True, n_threads=1, verbose=False, **sizes)


def far(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """The largest distance of two vectors that should be the same."""
    assert len(ours) == len(theirs)
    return max(math.dist(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("pooling", ["MEAN", "CLS", "LAST"])
def test_vectors_are_llama_cpps(models: dict[str, pathlib.Path], pooling: str) -> None:
    """Whatever the pooling, in batches of many."""
    path = models[pooling]
    ours = run(make_embedder(path), embed(1, *TEXTS * 20))
    theirs = reference(path)
    assert far(ours, theirs.embed(TEXTS, normalize=True) * 20) < 1e-3
    theirs.close()


def test_a_long_text_of_a_causal_model_is_decoded_in_pieces(
    models: dict[str, pathlib.Path],
) -> None:
    """Longer than a decode, with the vector of one piece. (Flash attention rounds otherwise.)"""
    text = "the old cat sat on a mat. " * 70
    embedder = make_embedder(models["LAST"], flash_attention=False)
    ours = run(embedder, embed(1, "short", text, "short"))
    theirs = reference(models["LAST"], 2048)
    assert len(theirs.tokenize(text.encode())) > 1024
    assert far(ours, theirs.embed(["short", text, "short"], normalize=True)) < 1e-3
    theirs.close()


def test_a_long_text_of_an_encoder_is_seen_whole(tmp_path: pathlib.Path) -> None:
    """Its tokens must see each other, however many there are."""
    from tests.helpers.embedding_models import write_bert

    path = tmp_path / "long.gguf"
    write_bert(path, gguf.PoolingType.MEAN, context_tokens=1024)
    texts = ["the cat sat on a mat. " * 80, "short"]
    theirs = reference(path, 1024)
    assert len(theirs.tokenize(texts[0].encode())) > 512
    assert (
        far(run(make_embedder(path), embed(1, *texts)), theirs.embed(texts, normalize=True)) < 2e-3
    )
    theirs.close()


def test_scores_are_llama_cpps(models: dict[str, pathlib.Path]) -> None:
    """Of the query and a text as llama-server puts them together; they are not normalised."""
    ours = run(make_embedder(models["RANK"]), embed(1, *TEXTS, query="old dog"))
    theirs = reference(models["RANK"])
    plain = {text: theirs.tokenize(text.encode())[1:-1] for text in (*TEXTS, "old dog")}
    begin, *_, separator = theirs.tokenize(b"cat")
    wanted = []
    for text in TEXTS:
        pair = [begin, *plain["old dog"], separator, *plain[text]]
        theirs.tokenize = lambda _, pair=pair: pair
        wanted.append(theirs.embed("the pair")[:1])
    assert far(ours, wanted) < 5e-3
    assert max(abs(score) for (score,) in ours) > 1.5
    del theirs.tokenize
    theirs.close()


def test_a_model_may_bring_its_own_template_for_pairs(
    tmp_path: pathlib.Path, models: dict[str, pathlib.Path]
) -> None:
    """What stands in a text is text there, whatever it looks like."""
    from tests.helpers.embedding_models import write_bert

    path = tmp_path / "template.gguf"
    write_bert(path, gguf.PoolingType.RANK, rerank_template="{query} ran {document} ran {query}")
    embedder = make_embedder(path)
    ids, _ = embedder.open(embed(1, "cat", query="dog"))
    plain = make_embedder(models["MEAN"])
    assert ids == plain.open(embed(1, "dog ran cat ran dog"))[0][1:-1]
    ids, _ = embedder.open(embed(2, "{query}", query="{document}"))
    assert ids == plain.open(embed(2, "{document} ran {query} ran {document}"))[0][1:-1]


def test_requests_take_turns(models: dict[str, pathlib.Path]) -> None:
    """A small request behind a large one is answered in the next step."""
    embedder = make_embedder(models["MEAN"])
    embedder.open(embed(1, *["the old cat sat on a mat. " * 6] * 100))
    assert {result.request for result in embedder.step({1: 64})} == {1}
    embedder.open(embed(2, "cat", "dog"))
    results = embedder.step({1: 64, 2: 64})
    assert [type(result) for result in results if result.request == 2] == [
        Embedded,
        Embedded,
        Ended,
    ]
    assert any(result.request == 1 for result in results)


def test_texts_that_fill_a_decode_take_turns_too(models: dict[str, pathlib.Path]) -> None:
    """What did not fit beside another's is first in the next step."""
    embedder = make_embedder(models["LAST"])
    for number in (1, 2):
        embedder.open(embed(number, *["the old cat sat on a mat. " * 50] * 3))
    served = [[result.request for result in embedder.step({1: 64, 2: 64})] for _ in range(4)]
    assert served == [[1], [2], [1], [2]]


def test_a_request_has_no_more_vectors_than_it_may(models: dict[str, pathlib.Path]) -> None:
    """Its consumer has not taken the others; one that may have none waits."""
    embedder = make_embedder(models["MEAN"])
    embedder.open(embed(1, *["cat"] * 50))
    embedder.open(embed(2, "dog"))
    assert [type(result) for result in embedder.step({1: 3})] == [Embedded] * 3
    assert embedder.close(1)
    assert not embedder.close(1)
    assert [type(result) for result in embedder.step({2: 1})] == [Embedded, Ended]
    assert embedder.has_room


def test_what_is_no_number_fails_its_request_alone(tmp_path: pathlib.Path) -> None:
    """Broken weights are said to be broken; others in the same step have their vectors."""
    from tests.helpers.embedding_models import write_bert

    path = tmp_path / "broken.gguf"
    write_bert(path, gguf.PoolingType.CLS, broken_token=MASK)
    embedder = make_embedder(path)
    embedder.open(embed(1, token_ids=((2, MASK, 3), (2, 3))))
    embedder.open(embed(2, "cat"))
    results = embedder.step({1: 64, 2: 64})
    failed = [result for result in results if result.request == 1]
    assert [type(result) for result in failed] == [Failed]
    assert [type(result) for result in results if result.request == 2] == [Embedded, Ended]
    assert not embedder.close(1)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"texts": ("a", "cat " * 64)}, "context_too_long", "text 1 has 66 tokens"),
        ({"texts": ("a", "c" * 20_000)}, "context_too_long", "text 1 has 20000 bytes"),
        ({"token_ids": ((2, 1_000),)}, "bad_request", "does not have"),
        ({"texts": ("a",), "dimensions": 49}, "bad_request", "48 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(
    models: dict[str, pathlib.Path], changes: dict[str, Any], code: str, words: str
) -> None:
    """Before anything is decoded, and nothing is held."""
    embedder = make_embedder(models["MEAN"], slots=1)
    with pytest.raises(RuntimeFailure, match=words) as failed:
        embedder.open(embed(1, *changes.pop("texts", ()), **changes))
    assert failed.value.code == code
    assert embedder.has_room


def test_a_context_is_never_longer_than_trained(models: dict[str, pathlib.Path]) -> None:
    """There are no weights for what lies behind it."""
    load = make_load(models["CLS"], context_tokens=4096)
    assert Embedder(open_model(load, lambda _: None), load).context_tokens == 64


def test_an_encoder_that_does_not_pool_is_no_model(models: dict[str, pathlib.Path]) -> None:
    """It can neither answer nor embed."""
    with pytest.raises(RuntimeFailure, match="how it pools") as failed:
        make_embedder(models["NONE"])
    assert failed.value.code == "invalid_model"
