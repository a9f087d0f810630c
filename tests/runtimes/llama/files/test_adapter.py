"""LoRA adapters: what they change, whose they are, and what is none."""

import pathlib

import numpy
import pytest
import trio

from runtimes.base import ModelCard, RuntimeFailure
from runtimes.llama.files.adapter import Adapter, whole_hash
from runtimes.llama.files.hash_cache import file_identity
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.runtimes.models.fake_disk import gguf as no_model
from tests.runtimes.serving import TIMEOUT_S, ask, complete, needs_llama, serving

WIDTH, LAYERS, RANK = 64, 2, 4
"""Of the random model; and of the adapters here."""


def write_adapter(path: pathlib.Path, *, width: int = WIDTH, architecture: str = "llama") -> None:
    """An adapter that turns the random model's attention upside down."""
    gguf = pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    random = numpy.random.Generator(numpy.random.PCG64(11))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(LAYERS):
        for part, shape in (("lora_a", (RANK, width)), ("lora_b", (width, RANK))):
            weights = random.standard_normal(shape).astype(numpy.float32)
            writer.add_tensor(f"blk.{layer}.attn_output.weight.{part}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def adapter(tmp_path: pathlib.Path) -> pathlib.Path:
    """One that fits."""
    path = tmp_path / "adapter.gguf"
    write_adapter(path)
    return path


def answer(model: pathlib.Path, **options: str) -> tuple[ModelCard, list[int]]:
    """What a model is, and says."""

    async def main() -> tuple[ModelCard, list[int]]:
        runtime = LlamaRuntime(read_settings(str(model), options))
        async with serving(runtime):
            completion = await complete(runtime, ask(24, temperature=0.0))
            assert runtime.card is not None
            return runtime.card, completion.ids

    return trio.run(main)


@pytest.mark.llama
@needs_llama
def test_an_adapter_changes_what_is_said_and_who_says_it(
    random_model: pathlib.Path, adapter: pathlib.Path
) -> None:
    """By its scale; with none of it added the tokens are those of the bare model. Each is another
    model to the mesh, so that no answer goes on where another adapter is.
    """
    bare, ids = answer(random_model)
    whole, changed = answer(random_model, lora=str(adapter))
    half, _ = answer(random_model, lora=f"{adapter}@0.5")
    none, same = answer(random_model, lora=f"{adapter}@0")
    assert changed != ids
    assert same == ids
    assert len({card.content_hash for card in (bare, whole, half, none)}) == 4
    assert whole.content_hash == whole_hash(random_model, Adapter(adapter))
    assert bare.content_hash == whole_hash(random_model, None)


@pytest.mark.llama
@needs_llama
@pytest.mark.parametrize("what", ["another width", "another architecture", "a model", "a stump"])
def test_what_is_no_adapter_for_the_model_is_refused(
    what: str, random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """In one line that names the file, and not again and again."""
    path = tmp_path / "adapter.gguf"
    match what:
        case "another width":
            write_adapter(path, width=2 * WIDTH)
        case "another architecture":
            write_adapter(path, architecture="gemma")
        case "a model":
            path.write_bytes(random_model.read_bytes())
        case _:
            path.write_bytes(no_model())

    async def main() -> None:
        runtime = LlamaRuntime(read_settings(str(random_model), {"lora": str(path)}))
        with pytest.raises(RuntimeFailure, match="no LoRA adapter for this model") as failed:
            with trio.fail_after(TIMEOUT_S):
                await runtime.serve(lambda: None)
        assert failed.value.code == "invalid_model"
        assert str(path) in failed.value.message
        assert "\n" not in failed.value.message

    trio.run(main)


def test_file_and_scale(adapter: pathlib.Path) -> None:
    """1 where nothing is said; a file with such a name is what is meant."""
    assert Adapter.of(str(adapter)) == Adapter(adapter, 1.0)
    assert Adapter.of(f"{adapter}@-0.25") == Adapter(adapter, -0.25)
    tricky = adapter.with_name("adapter.gguf@2")
    tricky.write_bytes(adapter.read_bytes())
    assert Adapter.of(str(tricky)) == Adapter(tricky, 1.0)
    assert Adapter.of(f"{tricky}@3") == Adapter(tricky, 3.0)


@pytest.mark.parametrize(
    ("written", "code"),
    [("@loud", "bad_request"), ("@nan", "bad_request"), ("@1e9", "bad_request"),
     ("@", "bad_request"), (".gone", "invalid_model")],
)  # fmt: skip
def test_what_cannot_be_an_adapter_is_said_before_anything_starts(
    adapter: pathlib.Path, written: str, code: str
) -> None:
    """A scale that is none, a file that is not there."""
    with pytest.raises(RuntimeFailure) as failed:
        Adapter.of(f"{adapter}{written}")
    assert failed.value.code == code


def test_another_adapter_or_scale_is_not_found_in_the_cache_as_this_one(
    adapter: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The identity has both."""
    model = tmp_path / "m.gguf"
    model.write_bytes(no_model())
    other = adapter.with_name("other.gguf")
    other.write_bytes(adapter.read_bytes())
    adapters = (None, Adapter(adapter), Adapter(adapter, 0.5), Adapter(other))
    assert len({file_identity(model, each) for each in adapters}) == 4
