"""A projector is found beside its model, belongs to it, and does no harm where it is none."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import pytest
import trio

from runtimes.base import GenerateRequest, RuntimeFailure
from runtimes.embedding import EMBED, GENERATE, SEE
from runtimes.images import Image
from runtimes.limits import PIXELS_MAX
from runtimes.llama.files.adapter import whole_hash
from runtimes.llama.files.hash_cache import HashCache, file_identity
from runtimes.llama.files.projector import DECODED_BYTES, find_projector, projector_bytes
from runtimes.llama.files.prospect import look
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.runtimes.models.fake_disk import gguf as no_model
from tests.runtimes.serving import CHAT, TIMEOUT_S, ask, complete, needs_llama, serving, wait_until

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from tests.helpers.jpegs import hard_jpeg
from tests.helpers.projectors import (
    FEED_FORWARD,
    IMAGE_TOKENS,
    WIDTH,
    png,
    write_flat_projector,
    write_projector,
)

QWEN = "Qwen2.5-VL-7B-Instruct"


@pytest.fixture
def folder(tmp_path: pathlib.Path, random_model: pathlib.Path) -> pathlib.Path:
    """A model with a projector beside it."""
    shutil.copy(random_model, tmp_path / "m-Q4_K_M.gguf")
    write_projector(tmp_path / "mmproj-m-f16.gguf")
    return tmp_path


def found(folder: pathlib.Path, model: str, others: Sequence[str]) -> str | None:
    """The projector of `model` in a folder with these files; those with `mmproj` are some."""
    for name in (model, *others):
        path = folder / name
        if "mmproj" in name:
            write_projector(path)
        else:
            path.write_bytes(no_model())
    projector = find_projector(folder / model, None)
    return None if projector is None else projector.name


@pytest.mark.parametrize(
    ("model", "others", "expected"),
    [
        (f"{QWEN}-Q4_K_M.gguf", [f"mmproj-{QWEN}-f16.gguf"], 0),
        (f"{QWEN}.Q4_K_M.gguf", [f"{QWEN}.mmproj-Q8_0.gguf"], 0),
        (f"{QWEN}-Q4_K_M-00001-of-00002.gguf", ["mmproj-F16.gguf"], 0),
        (f"{QWEN}-Q4_K_M.gguf", ["mmproj-model-f16.gguf", f"{QWEN}-Q8_0.gguf"], 0),
        (
            f"{QWEN}-UD-Q4_K_XL.gguf",
            ["mmproj-F16.gguf"]
            + [f"{QWEN}-{label}.gguf" for label in ("IQ4_NL", "MXFP4_MOE", "TQ1_0", "i1-imatrix")],
            0,
        ),
        (f"{QWEN}-Q4_K_M.gguf", [f"mmproj-{QWEN}-f16.gguf", "mmproj-BF16.gguf"], 0),
        (f"{QWEN}-Q4_K_M.gguf", ["mmproj-gemma-3-4b-it-f16.gguf"], None),
        (f"{QWEN}-Q4_K_M.gguf", ["mmproj-Qwen2.5-VL-32B-Instruct-f16.gguf"], None),
        ("llama-3-8b-Q4_0.gguf", ["mmproj-model-f16.gguf", "other.gguf"], None),
        ("llama-3-8b-Q4_0.gguf", ["other.gguf"], None),
    ],
)
def test_a_projector_beside_a_model_is_its_own_or_left_alone(
    tmp_path: pathlib.Path, model: str, others: list[str], expected: int | None
) -> None:
    """Its name names this model, or none where all files are of one model."""
    assert found(tmp_path, model, others) == (None if expected is None else others[expected])


def test_what_is_no_projector_is_none(folder: pathlib.Path) -> None:
    """Beside a model it is as if it were not there; named, it is refused in one line."""
    model, bad = folder / "m-Q4_K_M.gguf", folder / "mmproj-m-f16.gguf"
    assert find_projector(model, None) == find_projector(model, str(bad)) == bad
    assert find_projector(model, "none") is None
    for data in (no_model(), no_model(architecture="clip"), b"GGUF", b""):
        bad.write_bytes(data)
        assert find_projector(model, None) is None
        with pytest.raises(RuntimeFailure, match=bad.name) as failed:
            find_projector(model, str(bad))
        assert failed.value.code == "invalid_model"
    with pytest.raises(RuntimeFailure, match="no projector for images"):
        find_projector(model, str(model))


def test_it_belongs_to_the_model(folder: pathlib.Path) -> None:
    """What the model can do, its identity, its hash and its memory follow from it."""
    model = folder / "m-Q4_K_M.gguf"
    sees, blind = (
        read_settings(str(model), {"mmproj": text})
        for text in (str(folder / "mmproj-m-f16.gguf"), "none")
    )
    assert sees == read_settings(str(model), {})
    assert sees.projector is not None
    before, after = look(blind, None), look(sees, None)
    assert (before.card.tasks, after.card.tasks) == ((GENERATE,), (GENERATE, SEE))
    assert before.identity != after.identity
    need = projector_bytes(sees.projector)
    assert need > DECODED_BYTES * 2**24
    assert after.need.memory_bytes - before.need.memory_bytes == need
    assert whole_hash(model, None) != whole_hash(model, None, sees.projector)
    write_projector(sees.projector, model_width=32)
    assert file_identity(model, None, sees.projector) != after.identity


def test_buffers_are_those_of_the_largest_image(tmp_path: pathlib.Path) -> None:
    """Of the one size that all have, or else of as many patches as mtmd makes."""
    plain, flat = tmp_path / "mmproj-plain.gguf", tmp_path / "mmproj-flat.gguf"
    write_projector(plain)
    write_flat_projector(flat)
    of_patch = 4 * (2 * FEED_FORWARD + 6 * WIDTH)
    for path, patches in ((plain, IMAGE_TOKENS), (flat, 4 * 4096)):
        beside = path.stat().st_size + DECODED_BYTES * PIXELS_MAX
        assert projector_bytes(path) == beside + patches * of_patch


def test_a_draft_beside_it_is_counted_too(folder: pathlib.Path, random_model: pathlib.Path) -> None:
    """What the model needs has both in it; what it is and can do is as without a draft."""
    model, options = str(folder / "m-Q4_K_M.gguf"), {"draft": str(random_model)}
    blind = {"mmproj": "none"}
    alone, sees, drafted, both = (
        look(read_settings(model, given), None) for given in (blind, {}, options | blind, options)
    )
    added = sees.need.memory_bytes - alone.need.memory_bytes
    assert both.need.memory_bytes == drafted.need.memory_bytes + added
    assert drafted.need.memory_bytes > alone.need.memory_bytes
    assert (both.card, both.identity) == (sees.card, sees.identity)


def test_a_model_that_embeds_sees_nothing(tmp_path: pathlib.Path) -> None:
    """Whatever lies beside it."""
    import gguf

    from tests.helpers.embedding_models import write_bert

    write_bert(tmp_path / "m.gguf", gguf.PoolingType.MEAN)
    write_projector(tmp_path / "mmproj.gguf")
    assert look(read_settings(str(tmp_path / "m.gguf"), {}), None).card.tasks == (EMBED,)


def show(*images: bytes, **changes: object) -> GenerateRequest:
    """A chat that shows these."""
    shown = tuple(Image(data, 0, 4) for data in images)
    return ask(12, prompt=None, messages=CHAT, images=shown, temperature=0.0, **changes)


async def why_not(runtime: LlamaRuntime, request: GenerateRequest) -> RuntimeFailure:
    """Why it is refused."""
    with pytest.raises(RuntimeFailure) as failed:
        await complete(runtime, request)
    return failed.value


@pytest.mark.llama
@needs_llama
def test_the_worker_sees_and_outlives_bad_images(folder: pathlib.Path) -> None:
    """Each is refused in one line, and the same process answers what comes next."""
    runtime = LlamaRuntime(read_settings(str(folder / "m-Q4_K_M.gguf"), {}))

    async def main() -> None:
        async with serving(runtime):
            first = await complete(runtime, show(png()))
            pid, card = runtime.worker_pid, runtime.card
            assert card is not None
            assert card.tasks == (GENERATE, SEE)
            cut, empty = (png()[:100], png()[:-20]), png()[:8] + bytes(50)
            for data in (b"", b"hello", *cut, empty, hard_jpeg(8, 8, components=2)):
                failure = await why_not(runtime, show(png(), data))
                assert failure.code == "bad_request"
                assert failure.message.startswith("image 2 ")
                assert "\n" not in failure.message
            again = await complete(runtime, show(png()))
            other = await complete(runtime, show(png(seed=1)))
            assert again.ids == first.ids != other.ids
            assert again.finished.prompt_tokens == len(first.prompt_ids)
            assert again.finished.cached_tokens > 0
            rest = await complete(runtime, show(png(), continued_ids=tuple(first.ids[:5])))
            assert first.ids[:5] + rest.ids[:7] == first.ids
            assert runtime.worker_pid == pid

    trio.run(main)


@pytest.mark.llama
@needs_llama
def test_its_hash_is_remembered_with_its_projectors(folder: pathlib.Path) -> None:
    """The worker computes it over both files, and it is found by the identity of both."""
    hashes = HashCache(folder / "hashes.json")
    settings = read_settings(str(folder / "m-Q4_K_M.gguf"), {})
    runtime = LlamaRuntime(settings, hashes=hashes)
    identity = file_identity(settings.path, None, settings.projector)

    async def main() -> None:
        async with serving(runtime):
            await wait_until(lambda: hashes.find(identity) is not None)

    trio.run(main)
    assert hashes.find(identity) == whole_hash(settings.path, None, settings.projector)


@pytest.mark.llama
@needs_llama
def test_a_model_without_a_projector_is_shown_nothing(random_model: pathlib.Path) -> None:
    """Typed, in one line; text is answered as ever."""
    runtime = LlamaRuntime(read_settings(str(random_model), {}))

    async def main() -> None:
        async with serving(runtime):
            failure = await why_not(runtime, show(png()))
            assert (failure.code, "cannot see images" in failure.message) == ("bad_request", True)
            assert len((await complete(runtime, show())).ids) == 12

    trio.run(main)


@pytest.mark.llama
@needs_llama
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"model_width": 32}, "mismatch between text model"),
        ({"without": "v.blk.0.ffn_up.weight"}, "Failed to load CLIP model"),
    ],
)
def test_a_projector_that_does_not_load_says_so(
    folder: pathlib.Path, fault: dict[str, object], why: str
) -> None:
    """One for another model, or a damaged one: the line names it, mtmd's reason and the mend."""
    bad = folder / "mmproj-m-f16.gguf"
    write_projector(bad, **fault)  # type: ignore[arg-type]  # a test's shorthand
    settings = read_settings(str(folder / "m-Q4_K_M.gguf"), {})

    async def main(runtime: LlamaRuntime) -> None:
        with trio.fail_after(TIMEOUT_S), pytest.raises(RuntimeFailure) as failed:
            await runtime.serve(lambda: None)
        assert failed.value.code == "invalid_model"
        assert str(bad) in failed.value.message
        assert why in failed.value.message
        assert "mmproj=none" in failed.value.message

    trio.run(main, LlamaRuntime(settings))
    blind = LlamaRuntime(dataclasses.replace(settings, projector=None))

    async def answers() -> None:
        async with serving(blind):
            assert len((await complete(blind, ask(5))).ids) == 5

    trio.run(answers)
