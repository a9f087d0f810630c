"""A model sees with the projector that comes with it, wherever the two are from."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping

import pytest
import trio

from runtimes.base import ModelCard, Runtime, RuntimeFailure
from runtimes.embedding import GENERATE, SEE
from runtimes.images import Image
from runtimes.llama.files.adapter import whole_hash
from runtimes.models.default_offer import choose_offer
from runtimes.models.hub_fetch import fetch
from runtimes.models.hub_frames import Fetching
from runtimes.models.hub_model import cached
from runtimes.models.hub_reference import read_reference
from runtimes.models.on_disk import models_on_disk
from runtimes.registry import make_source
from tests.runtimes.models.fake_disk import FakeDisk, gguf
from tests.runtimes.models.fake_hub import FakeHub
from tests.runtimes.serving import CHAT, TIMEOUT_S, ask, complete, needs_llama, serving

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from tests.helpers.projectors import IMAGE_TOKENS, png, write_projector

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="the [hub] extra is not installed"
)
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


@pytest.fixture
def repository(hub: FakeHub, model: bytes, projector: bytes) -> FakeHub:
    """A Hub that has a model in two formats with projectors."""
    hub.files[REPOSITORY] = {
        MODEL: model,
        "tiny-IQ4_NL.gguf": model + bytes(32),
        PROJECTOR: projector,
        "mmproj-F32.gguf": projector + bytes(64),
    }
    return hub


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


def fetched(reports: list[Fetching] | None = None, *, with_projector: bool = True) -> pathlib.Path:
    """Fetch the repository's model in one attempt."""
    note = (lambda report: None) if reports is None else reports.append

    async def main() -> pathlib.Path:
        with trio.fail_after(TIMEOUT_S):
            return await fetch(read_reference(REPOSITORY), note, with_projector=with_projector)

    return trio.run(main)


def files_got(hub: FakeHub) -> list[str]:
    """The files whose bytes were asked for."""
    return [get.path.rpartition("/")[2] for get in hub.gets]


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


@needs_hub
def test_a_projector_is_fetched_with_its_model(repository: FakeHub) -> None:
    """One, the smaller; it counts in the share; later both are served without a word to the Hub."""
    card = served(f"hf:{REPOSITORY}")
    assert files_got(repository) == [PROJECTOR, MODEL]
    path = cached(read_reference(REPOSITORY))
    assert path is not None
    beside = path.with_name(PROJECTOR)
    assert beside.read_bytes() == repository.files[REPOSITORY][PROJECTOR]
    assert (card.tasks, card.content_hash) == (SEEING, whole_hash(path, None, beside))
    asked = len(repository.seen)
    assert served(f"hf:{REPOSITORY}") == card
    assert served(f"hf:{REPOSITORY},mmproj=none").tasks == (GENERATE,)
    assert len(repository.seen) == asked


@needs_hub
def test_the_share_counts_both(repository: FakeHub, model: bytes, projector: bytes) -> None:
    """From the first report that has a total to the last."""
    reports: list[Fetching] = []
    fetched(reports)
    both = len(model) + len(projector)
    assert {report.total_bytes for report in reports if report.total_bytes} == {both}
    assert reports[-1].done_bytes == reports[-1].received_bytes == both
    assert reports[-1].name == "tiny-Q4_K_M"


@needs_hub
def test_no_projector_is_fetched_where_the_person_says_which(
    repository: FakeHub, tmp_path: pathlib.Path, projector: bytes
) -> None:
    """None at all, or a file of theirs."""
    other = file_of(projector + bytes(32), tmp_path / "other.gguf")
    card = served(f"hf:{REPOSITORY},mmproj={other}")
    path = cached(read_reference(REPOSITORY))
    assert path is not None
    assert (card.tasks, card.content_hash) == (SEEING, whole_hash(path, None, other))
    path.unlink()
    assert served(f"hf:{REPOSITORY},mmproj=none").tasks == (GENERATE,)
    assert set(files_got(repository)) == {MODEL}


@needs_hub
def test_a_projector_goes_on_where_it_ended_and_comes_before_its_model(
    repository: FakeHub, projector: bytes
) -> None:
    """Cut in the middle, the cache has no model that would be served blind; the rest follows."""
    repository.cut_after = [1_000]
    with pytest.raises(RuntimeFailure) as failed:
        fetched()
    assert failed.value.code == "unavailable"
    assert cached(read_reference(REPOSITORY)) is None
    assert fetched().with_name(PROJECTOR).read_bytes() == projector
    assert [get.range for get in repository.gets] == [None, "bytes=1000-", None]


@needs_hub
def test_a_damaged_projector_is_not_kept(repository: FakeHub, projector: bytes) -> None:
    """What does not have the hash that the Hub states is fetched again."""
    repository.cut_after = [1_000]
    with pytest.raises(RuntimeFailure, match="goes on from there"):
        fetched()
    (half,) = pathlib.Path.home().rglob("*.incomplete")
    half.write_bytes(b"x" * 1_000)
    with pytest.raises(RuntimeFailure, match="damaged"):
        fetched()
    assert fetched().with_name(PROJECTOR).read_bytes() == projector


@needs_hub
def test_of_hundreds_of_projectors_one_is_fetched(repository: FakeHub, model: bytes) -> None:
    """And if it turns out to be none, the model answers texts."""
    hostile = {f"mmproj-q{number}.gguf": gguf(1_000 + number) for number in range(300)}
    repository.files[REPOSITORY] = {MODEL: model} | hostile
    assert served(f"hf:{REPOSITORY}").tasks == (GENERATE,)
    assert files_got(repository) == ["mmproj-q0.gguf", MODEL]
