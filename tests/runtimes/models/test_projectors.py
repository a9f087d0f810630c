"""A model sees with the projector that comes with it, wherever the two are from."""

import hashlib
import pathlib
from collections.abc import Mapping

import pytest
import trio

from runtimes.base import ModelCard, Runtime
from runtimes.embedding import GENERATE, SEE
from runtimes.images import Image
from runtimes.llama.files.adapter import whole_hash
from runtimes.models.default_offer import choose_offer
from runtimes.models.on_disk import models_on_disk
from runtimes.registry import make_source
from tests.runtimes.models.fake_disk import FakeDisk, gguf
from tests.runtimes.serving import CHAT, ask, complete, needs_llama, serving

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from tests.helpers.projectors import IMAGE_TOKENS, png, write_projector

pytestmark = [pytest.mark.llama, needs_llama]

REPOSITORY = "org/Tiny-GGUF"
MODEL, PROJECTOR = "tiny-Q4_K_M.gguf", "mmproj-F16.gguf"
SEEING = (GENERATE, SEE)


@pytest.fixture
def model(random_model: pathlib.Path) -> bytes:
    """A model that generates."""
    return random_model.read_bytes()


@pytest.fixture
def projector(tmp_path: pathlib.Path) -> bytes:
    """One that fits it."""
    path = tmp_path / "projector.gguf"
    write_projector(path)
    return path.read_bytes()


def served(spec: str, options: Mapping[str, str] | None = None) -> ModelCard:
    """The card of what `spec` names; if it says that it sees, it is shown an image."""
    source = make_source(spec, options or {})
    assert isinstance(source, Runtime)

    async def main() -> ModelCard:
        async with serving(source):
            assert source.card is not None
            if SEE in source.card.tasks:
                shown = Image(png(), 0, 4)
                request = ask(4, prompt=None, messages=CHAT, images=(shown,))
                assert len((await complete(source, request)).prompt_ids) > IMAGE_TOKENS
            return source.card

    return trio.run(main)


def file_of(data: bytes, path: pathlib.Path) -> pathlib.Path:
    """A file with this in it."""
    path.write_bytes(data)
    return path


def test_ollamas_model_sees_with_its_layer(
    disk: FakeDisk, tmp_path: pathlib.Path, model: bytes, projector: bytes
) -> None:
    """Named, or offered because nobody said otherwise; what the person says counts more."""
    path = disk.ollama("llava:7b", model, more_layers=[("projector", projector)])
    blob = path.with_name(f"sha256-{hashlib.sha256(projector).hexdigest()}")
    card = served("llava:7b")
    assert (card.name, card.tasks) == ("llava:7b", SEEING)
    assert card.content_hash == whole_hash(path, None, blob)
    offer = choose_offer(models_on_disk(), 2**40)
    assert served(offer.spec, offer.options) == card
    blind = served("llava:7b,mmproj=none")
    assert (blind.tasks, blind.content_hash) == ((GENERATE,), whole_hash(path, None))
    other = file_of(projector + bytes(32), tmp_path / "other.gguf")
    assert served(f"llava:7b,mmproj={other}").content_hash == whole_hash(path, None, other)


@pytest.mark.parametrize("layer", [b"", b"no GGUF", gguf(), gguf(architecture="clip")])
def test_a_layer_that_is_no_projector_for_images_is_left_alone(
    disk: FakeDisk, model: bytes, layer: bytes
) -> None:
    """The model answers texts, as one with such a file beside it does."""
    disk.ollama("llava:7b", model, more_layers=[("projector", layer)])
    assert served("llava:7b").tasks == (GENERATE,)


def test_what_lies_beside_a_model_of_another_program_is_found(
    disk: FakeDisk, model: bytes, projector: bytes
) -> None:
    """LM Studio's folders and the Hugging Face cache, whose files are links."""
    disk.lm_studio(f"publisher/Studio-GGUF/{MODEL}", model)
    disk.lm_studio(f"publisher/Studio-GGUF/{PROJECTOR}", projector)
    disk.hub(REPOSITORY, MODEL, model + bytes(32))
    disk.hub(REPOSITORY, PROJECTOR, projector)
    for spec in ("publisher/Studio-GGUF", REPOSITORY):
        assert served(spec).tasks == SEEING
        assert served(f"{spec},mmproj=none").tasks == (GENERATE,)
