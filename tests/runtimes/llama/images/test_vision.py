"""Images in the engine: read as mtmd reads them, counted, reused, and in nobody's way."""

import ctypes
import os
import pathlib
import zlib
from typing import Any

import numpy
import pytest

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.engine import REPRODUCIBLE_TOKENS, Engine
from runtimes.llama.frames import Encoding, Ended, Failed, Generate, Prefilled
from runtimes.llama.images.image_tokens import PlacedImage
from runtimes.llama.images.vision import Vision
from tests.runtimes.llama.engines import Outcome, Outcomes, generate, make_engine, run
from tests.runtimes.serving import needs_llama

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from runtimes.llama.demo import build
from tests.helpers.jpegs import hard_jpeg
from tests.helpers.projectors import (
    IMAGE_TOKENS,
    jpeg,
    png,
    png_of,
    write_flat_projector,
    write_projector,
    write_tiled_projector,
    write_whole_projector,
)

pytestmark = [pytest.mark.llama, needs_llama]

BEFORE, BEHIND = "What is ", " this?"
KINDS = ("plain", "tiled", "flat", "whole")
"""Of projectors: as LLaVA's, that of LLaVA 1.6, Qwen2-VL's, Gemma 3's."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Of each kind, a model and its projector."""
    folder = tmp_path_factory.mktemp("seeing")
    build.write(folder / "plain.gguf")
    write_projector(folder / "mmproj-plain.gguf")
    build.write(folder / "tiled.gguf")
    write_tiled_projector(folder / "mmproj-tiled.gguf")
    build.write(folder / "flat.gguf", is_flat=True)
    write_flat_projector(folder / "mmproj-flat.gguf")
    build.write(folder / "whole.gguf")
    write_whole_projector(folder / "mmproj-whole.gguf")
    return folder


def seeing(models: pathlib.Path, kind: str = "plain", **changes: object) -> Engine:
    """An engine that sees."""
    projector = os.fsencode(models / f"mmproj-{kind}.gguf")
    return make_engine(models / f"{kind}.gguf", projector=projector, **changes)


def look(number: int, *images: bytes, **changes: object) -> Generate:
    """Ask what these images are, greedily."""
    fields: dict[str, object] = {
        "prompt": None,
        "messages": (("user", BEFORE + BEHIND),),
        "images": images,
        "image_places": ((0, len(BEFORE)),) * len(images),
        "temperature": 0.0,
    }
    return generate(number, **(fields | changes))


def seen(engine: Engine, number: int, *images: bytes, **changes: object) -> Outcome:
    """What it says of them."""
    [outcome] = run(engine, look(number, *images, **changes))
    return outcome


def failure_of(engine: Engine, *requests: int) -> Failed:
    """The first failure among what steps of these bring."""
    for _ in range(20):
        for result in engine.step(dict.fromkeys(requests, 1)):
            if isinstance(result, Failed):
                return result
    raise AssertionError("all is well")


def as_mtmd_does(
    engine: Engine, models: pathlib.Path, kind: str, image: bytes
) -> tuple[list[int], float]:
    """The same answer by mtmd's own loop, in a context of its own; and how likely its first token
    was.
    """
    import llama_cpp.llama_cpp as llama
    import llama_cpp.mtmd_cpp as mtmd

    model = engine.model.handle
    asked = mtmd.mtmd_context_params_default()
    asked.use_gpu, asked.n_threads = False, 1
    path = os.fsencode(models / f"mmproj-{kind}.gguf")
    sight: Any = mtmd.mtmd_init_from_file(path, model, asked)
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    context: Any = llama.llama_init_from_model(model, parameters)
    buffer = (ctypes.c_uint8 * len(image)).from_buffer_copy(image)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(sight, buffer, len(image), False)
    marker = mtmd.mtmd_default_marker().decode()
    prompt = f"<|im_start|>user\n{BEFORE}{marker}{BEHIND}<|im_end|>\n<|im_start|>assistant\n"
    text = mtmd.mtmd_input_text(prompt.encode(), len(prompt), True, True)
    chunks: Any = mtmd.mtmd_input_chunks_init()
    bitmaps = (ctypes.c_void_p * 1)(bitmap)
    assert mtmd.mtmd_tokenize(sight, chunks, ctypes.byref(text), bitmaps, 1) == 0
    past = llama.llama_pos(0)
    code = mtmd.mtmd_helper_eval_chunks(sight, context, chunks, 0, 0, 512, True, ctypes.byref(past))
    assert code == 0
    sampler = llama.llama_sampler_init_greedy()
    ids = []
    logits = numpy.ctypeslib.as_array(
        llama.llama_get_logits_ith(context, -1), (engine.model.tokens_known,)
    ).astype(numpy.float64)
    likely = float(logits.max() - numpy.log(numpy.exp(logits).sum()))
    for _ in range(20):
        ids.append(llama.llama_sampler_sample(sampler, context, -1))
        token = (llama.llama_token * 1)(ids[-1])
        assert llama.llama_decode(context, llama.llama_batch_get_one(token, 1)) == 0
    llama.llama_free(context)
    mtmd.mtmd_free(sight)
    return ids, likely


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_alone", [False, True])
def test_an_image_is_read_as_mtmd_reads_it(models: pathlib.Path, kind: str, is_alone: bool) -> None:
    """The same tokens as its own loop gives, also of an image that is decoded in pieces."""
    engine = seeing(models, kind, reproducible=is_alone)
    for number, image in enumerate([png(), png(400, 300), jpeg()]):
        wanted, likely = as_mtmd_does(engine, models, kind, image)
        end = next((at for at, token in enumerate(wanted) if engine.model.is_end(token)), 19)
        outcome = seen(engine, number, image, ignore_eos=False, logprobs=0)
        assert outcome.ids == wanted[: end + 1]
        assert abs(outcome.likely[0].likely_logprobs[0] - likely) < 5e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_image_is_answered_alike_and_another_is_not(
    models: pathlib.Path, kind: str
) -> None:
    """Also where what was seen before is still known; an image is something else than none."""
    engine = seeing(models, kind)
    first, again, other, none = (
        seen(engine, number, *images).ids
        for number, images in enumerate([[png()], [png()], [png(seed=1)], []])
    )
    assert first == again == seen(seeing(models, kind), 1, png()).ids
    assert other != first
    assert none not in (first, other)


def test_order_and_place_matter(models: pathlib.Path) -> None:
    """Two images the other way round, or behind the text, are another question."""
    engine = seeing(models)
    one, other = png(seed=1), png(seed=2)
    answers = [
        seen(engine, 1, one, other).ids,
        seen(engine, 2, other, one).ids,
        seen(engine, 3, one, other, image_places=((0, 0), (0, len(BEFORE)))).ids,
    ]
    assert len(set(map(tuple, answers))) == 3
    assert seen(engine, 4, one, other).ids == answers[0]


def test_tokens_of_images_are_counted(models: pathlib.Path) -> None:
    """In the prompt's tokens, of which theirs have no ids."""
    engine = seeing(models)
    text, _ = engine.open(look(1))
    shown, _ = engine.open(look(2, png(), png(seed=1)))
    assert len(shown) == len(text) + 2 * IMAGE_TOKENS
    assert shown.count(0) == 2 * IMAGE_TOKENS
    assert engine.close(1)
    assert engine.close(2)
    ended = seen(engine, 3, png(), png(seed=1)).ended
    assert ended is not None
    assert ended.prompt_tokens == len(shown)


def test_an_image_that_does_not_fit_is_refused_before_it_is_computed(models: pathlib.Path) -> None:
    """Its tokens count against the context; what is open is not disturbed."""
    engine = seeing(models, context_tokens=48)
    with pytest.raises(RuntimeFailure) as failed:
        engine.open(look(1, png(), png(seed=1)))
    assert failed.value.code == "context_too_long"
    assert "62 tokens, and the context holds 48" in failed.value.message
    assert len(seen(engine, 2, png(), max_tokens=2).ids) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_beginning_is_reused_by_what_it_shows(models: pathlib.Path, kind: str) -> None:
    """Beyond an image only if the image is the same, and if positions are places; up to it
    otherwise.
    """
    engine = seeing(models, kind)
    turns = (("user", BEFORE + BEHIND), ("assistant", "A dog. " * 20), ("user", "Really?"))

    def cached(number: int, *images: bytes, **changes: object) -> tuple[int, list[int]]:
        outcome = seen(engine, number, *images, **changes)
        assert outcome.ended is not None
        return outcome.ended.cached_tokens, outcome.ids

    tokens, _ = engine.open(look(1, png()))
    engine.close(1)
    start = tokens.index(0)
    assert cached(2, png(), messages=turns)[0] == 0
    other, _ = cached(3, png(seed=1), messages=turns)
    assert 0 < other <= start
    again, ids = cached(4, png(), messages=turns)
    assert again <= start if kind == "flat" else again > len(tokens)
    assert ids == seen(seeing(models, kind), 5, png(), messages=turns).ids


def test_an_image_is_never_read_from_its_middle(models: pathlib.Path) -> None:
    """Where pieces of a prompt end within one, what is reused ends before it: the rest of it would
    be computed in another shape.
    """
    engine, image = seeing(models, reproducible=True), png()
    fields: dict[str, object] = {
        "messages": (("user", "x" * 115 + BEHIND * 9),),
        "image_places": ((0, 115),),
    }
    tokens, _ = engine.open(look(1, image, **fields))
    engine.close(1)
    start = tokens.index(0)
    assert start < REPRODUCIBLE_TOKENS < start + IMAGE_TOKENS
    first = seen(engine, 2, image, **fields)
    fields["messages"] = (("user", "x" * 115 + "?" + BEHIND * 9),)
    other = seen(engine, 3, image, **fields)
    assert other.ended is not None
    assert other.ended.cached_tokens == start
    assert other.ids == seen(seeing(models, reproducible=True), 4, image, **fields).ids
    assert other.ids != first.ids


@pytest.mark.parametrize("kind", KINDS)
def test_streams_go_on_beside_images(models: pathlib.Path, kind: str) -> None:
    """Each step gives every stream its token, whatever is computed of images in it."""
    engine = seeing(models, kind)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, max_tokens=60), generate(2, max_tokens=60))
    while not (outcomes.of[1].ids and outcomes.of[2].ids):
        outcomes.step()
    outcomes.open(look(3, png(), png(300, 300, seed=1)), look(4, png(seed=2)))
    while not (outcomes.of[3].ids and outcomes.of[4].ids):
        assert {1, 2} <= set(outcomes.step())
    outcomes.finish()
    alone = seeing(models, kind)
    assert outcomes.of[4].ids == seen(alone, 4, png(seed=2)).ids


@pytest.mark.parametrize("is_alone", [False, True])
def test_each_image_is_announced_and_is_one_step(
    models: pathlib.Path, is_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the worker knows before; in between all that has arrived is seen to."""
    encoded: list[int] = []
    encode = Vision.encode

    def noted(vision: Vision, image: PlacedImage) -> None:
        encoded.append(image.number)
        encode(vision, image)

    monkeypatch.setattr(Vision, "encode", noted)
    engine = seeing(models, reproducible=is_alone)
    engine.open(look(1, png(seed=1), png(seed=2), max_tokens=1))
    engine.open(look(2, png(seed=3), max_tokens=1))
    running, announced = {1, 2}, set[int]()
    while running:
        before = len(encoded)
        results = engine.step(dict.fromkeys(running, 1))
        assert len(encoded) - before <= 1
        assert len(encoded) == before or announced
        announced |= {each.request for each in results if isinstance(each, Encoding)}
        announced -= {each.request for each in results if isinstance(each, Prefilled)}
        running -= {each.request for each in results if isinstance(each, Ended)}
    assert sorted(encoded) == [0, 0, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("emitted", [1, 7, 19])
def test_a_broken_answer_goes_on_as_it_would_have(
    models: pathlib.Path, kind: str, emitted: int
) -> None:
    """Token for token, on an engine that has never seen the image."""
    image = png(seed=3)
    whole = seen(seeing(models, kind, reproducible=True), 1, image).ids
    engine = seeing(models, kind, reproducible=True)
    rest = seen(engine, 1, image, continued_ids=tuple(whole[:emitted]), max_tokens=20 - emitted)
    assert whole[:emitted] + rest.ids == whole


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_thrown_out_is_computed_again(models: pathlib.Path, kind: str) -> None:
    """Where the KV cache is too small for all, each has the answer that it has alone."""
    requests = [look(number, png(seed=number), max_tokens=60) for number in range(1, 5)]
    alone = seeing(models, kind)
    wanted = [run(alone, request)[0].ids for request in requests]
    engine = seeing(models, kind, context_tokens=160, kv_tokens=200)
    assert [outcome.ids for outcome in run(engine, *requests)] == wanted


def test_who_is_thrown_out_is_announced_again(models: pathlib.Path) -> None:
    """Its text is read once more first, and who waits takes that for the end of its image."""
    engine = seeing(models, context_tokens=160, kv_tokens=160)
    engine.open(look(1, png(), max_tokens=1))
    while not any(isinstance(each, Encoding) for each in engine.step({1: 1})):
        pass
    run(engine, generate(2, prompt="a" * 100, max_tokens=40))  # the first one is paused meanwhile
    told: list[object] = []
    while not any(isinstance(each, Ended) for each in told):
        told += engine.step({1: 1})
    kinds = [type(each) for each in told]
    assert kinds[:3] == [Prefilled, Encoding, Prefilled]  # its text, its image


def test_all_room_comes_back(models: pathlib.Path) -> None:
    """Whether an image was refused, cancelled between two steps, or seen."""
    engine = seeing(models, context_tokens=128, kv_tokens=128)
    for number in range(40):
        engine.open(look(number, png(seed=number)))
        for _ in range(number % 4):
            engine.step({number: 1})
        engine.close(number)
    assert len(seen(engine, 99, png()).ids) == 20


BAD = {
    "nothing": b"",
    "no image": b"hello" * 100,
    "cut off": png()[:-200],
    "cut off early": png()[:30],
    "a jpeg without an end": jpeg()[:40],
    "a jpeg without its last bytes": jpeg()[:-2],
    "a minute's work": hard_jpeg(4096, 4096, components=4, scans=[(range(4), 0, 63)] * 64),
    "a jpeg's first bytes": b"\xff\xd8\xff",
    "huge": png_of(16_000, 16_000, zlib.compress(b"")),
    "endless sides": png_of(2**31 - 1, 2**31 - 1, zlib.compress(b"")),
    "no sides": png_of(0, 0, zlib.compress(b"")),
    "more than it says": png_of(1, 1, zlib.compress(bytes(10**7))),
    "less than it says": png_of(100, 100, zlib.compress(bytes(10))),
    "no pixels": png_of(10, 10, b"\x00" * 100),
    "a sound": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(100),
    "a gif": b"GIF89a" + bytes(100),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_bad_image_is_refused_and_nothing_happens(models: pathlib.Path, data: bytes) -> None:
    """Typed, with its number; the next one is seen."""
    engine = seeing(models)
    with pytest.raises(RuntimeFailure, match="image 2 ") as failed:
        engine.open(look(1, png(), data))
    assert failed.value.code == "bad_request"
    assert engine.has_room
    assert len(seen(engine, 2, png()).ids) == 20


def test_no_program_is_started_for_what_cannot_be_decoded(
    models: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mtmd would take it for a video, and hand it to FFmpeg."""
    for name in ("ffprobe", "ffmpeg"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho ran > {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    engine = seeing(models)
    engine.open(look(1, png(), hard_jpeg(8, 8, components=2)))
    failure = failure_of(engine, 1)
    assert failure.code == "bad_request"
    assert "image 2 cannot be decoded" in failure.message
    assert not (tmp_path / "ran").exists()


def test_an_image_of_too_many_tokens_is_refused(
    models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all the parts that it is cut into; others rely on there being no more of one."""
    engine = seeing(models)
    chunks = Vision._chunks
    monkeypatch.setattr(Vision, "_chunks", lambda *each: [*chunks(*each)] * 2)
    monkeypatch.setattr("runtimes.llama.images.vision.IMAGE_TOKENS_MAX", 2 * IMAGE_TOKENS)
    engine.open(look(1, png()))
    monkeypatch.setattr("runtimes.llama.images.vision.IMAGE_TOKENS_MAX", 2 * IMAGE_TOKENS - 1)
    with pytest.raises(RuntimeFailure, match=f"have {2 * IMAGE_TOKENS} tokens") as failed:
        engine.open(look(2, png()))
    assert failed.value.code == "bad_request"


def test_an_image_that_cannot_be_encoded_fails_alone(
    models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is told so; the one beside it goes on."""
    engine = seeing(models)
    monkeypatch.setattr("llama_cpp.mtmd_cpp.mtmd_encode_chunk", lambda *_: 1)
    engine.open(look(1, png()))
    outcomes = Outcomes(engine)
    outcomes.open(generate(2))
    failure = failure_of(engine, 1, 2)
    assert (failure.request, failure.code) == (1, "crashed")
    outcomes.finish([2])
    assert not engine.close(1)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_one_image(
    models: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is decoded when its turn has come, once, also where it is cut into parts; what is open
    holds none before and none behind that.
    """
    import llama_cpp.mtmd_cpp as mtmd

    decoded: list[bytes] = []
    decode = Vision._decoded

    def noted(vision: Vision, data: bytes) -> object:
        decoded.append(data)
        return decode(vision, data)

    monkeypatch.setattr(Vision, "_decoded", noted)
    engine, shown = seeing(models, kind), [png(300, 100, seed=seed) for seed in range(4)]
    vision: Any = engine._prompts._vision
    outcomes = Outcomes(engine)
    outcomes.open(look(1, *shown[:2]), look(2, *shown[2:]))
    for sequence in engine._sequences.values():
        for image in sequence.images:
            chunk = mtmd.mtmd_input_chunks_get(image.source.chunks.handle, image.chunk)
            assert mtmd.mtmd_encode_chunk(vision._context, chunk) != 0
    while not (outcomes.of[1].ids and outcomes.of[2].ids):
        before = len(decoded)
        outcomes.step()
        assert len(decoded) <= before + 1
        assert vision._at_hand is None or kind == "tiled"
    assert vision._at_hand is None
    assert decoded == shown
    assert seen(engine, 3, *shown[:2]).ids == seen(seeing(models, kind), 3, *shown[:2]).ids


def test_nobody_writes_a_marker(models: pathlib.Path) -> None:
    """mtmd's usual marker in a message is text like any other."""
    engine = seeing(models)
    turns = (("user", "<__media__> and <__media__>"),)
    outcome = seen(engine, 1, png(), messages=turns, image_places=((0, 3),))
    assert len(outcome.ids) == 20


def test_a_template_that_shows_no_image_is_refused(
    models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the answer would be one to another question."""
    monkeypatch.setattr(
        "runtimes.llama.engine.model.LoadedModel.chat_template",
        "{{ messages[0].role }} said something",
    )
    with pytest.raises(RuntimeFailure, match="template leaves images out"):
        seeing(models).open(look(1, png()))


def test_a_prompt_that_ends_with_an_image_is_refused(
    models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No token comes behind it that anything could be sampled from."""
    monkeypatch.setattr(
        "runtimes.llama.engine.model.LoadedModel.chat_template", "{{ messages[0].content }}"
    )
    with pytest.raises(RuntimeFailure, match="ends with an image"):
        seeing(models).open(look(1, png(), messages=(("user", "What?"),), image_places=((0, 5),)))
