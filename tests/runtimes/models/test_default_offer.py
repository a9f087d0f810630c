"""What a node offers when nobody says."""

import dataclasses
import pathlib

import pytest

from runtimes.models.default_offer import DefaultOffer, architecture, choose_offer, needed_bytes
from runtimes.models.on_disk import models_on_disk
from tests.helpers.projectors import write_projector
from tests.runtimes.models.fake_disk import FakeDisk, gguf, real_model

PLENTY = 2**40


def test_without_models_it_is_the_demo(disk: FakeDisk) -> None:
    """Nothing found, nothing said."""
    assert choose_offer(models_on_disk(), PLENTY) == DefaultOffer(spec="demo", notice=None)
    disk.lm_studio("p/r/empty.gguf", b"")
    assert choose_offer(models_on_disk(), PLENTY) == DefaultOffer(spec="demo", notice=None)


def test_the_largest_that_fits_is_offered_and_the_others_are_named(disk: FakeDisk) -> None:
    """One model, and one line that says what else there is and how to choose."""
    blob = disk.ollama("middle:1b", gguf(5_000))
    disk.ollama("small:1b", gguf(1_000))
    disk.lm_studio("p/r/large.gguf", gguf(9_000))
    models = models_on_disk()
    middle = next(model for model in models if model.name == "middle:1b")
    offer = choose_offer(models, needed_bytes(middle))
    assert offer.spec == f"llama:{blob}"
    assert offer.options == {"name": "middle:1b"}
    assert offer.notice is not None
    assert "\n" not in offer.notice
    for word in ("middle:1b", "Ollama", "large, small:1b", "--model NAME"):
        assert word in offer.notice
    assert choose_offer(models, needed_bytes(middle) - 1).options == {"name": "small:1b"}


def test_what_a_model_sees_with_has_to_fit_too(disk: FakeDisk, tmp_path: pathlib.Path) -> None:
    """Else a node that could serve a smaller model would serve none."""
    write_projector(tmp_path / "mmproj.gguf")
    sight = (tmp_path / "mmproj.gguf").read_bytes()
    disk.ollama("sees:1b", gguf(5_000), more_layers=[("projector", sight)])
    disk.ollama("small:1b", gguf(1_000))
    models = models_on_disk()
    seeing = next(model for model in models if model.name == "sees:1b")
    without = dataclasses.replace(seeing, projector=None)
    assert choose_offer(models, needed_bytes(seeing)).options["name"] == "sees:1b"
    assert choose_offer(models, needed_bytes(without)).options == {"name": "small:1b"}


def test_when_nothing_fits_it_is_the_demo_and_said_so(disk: FakeDisk) -> None:
    """A node that offers less than it has says why."""
    disk.ollama("large:70b", gguf(9_000))
    offer = choose_offer(models_on_disk(), 2**30)
    assert offer.spec == "demo"
    assert offer.notice is not None
    assert "large:70b" in offer.notice
    assert "--model NAME" in offer.notice


@pytest.mark.parametrize(
    "data",
    [
        gguf(9_000, "nomic-bert"),
        b"no model".ljust(9_000),
        (gguf(0, "gemma3") + b"gemma3.vision.block_count").ljust(9_000),
    ],
)
def test_what_cannot_answer_is_passed_over(disk: FakeDisk, data: bytes) -> None:
    """An embedding model, a damaged file, or one that only Ollama reads, is not offered, however
    large it is.
    """
    disk.ollama("larger:1b", data)
    disk.ollama("good:1b", gguf(1_000))
    assert choose_offer(models_on_disk(), PLENTY).options == {"name": "good:1b"}


def test_the_architecture_is_read_from_a_real_file(tmp_path: pathlib.Path) -> None:
    """The fake files here have it where the real ones do."""
    assert architecture(real_model(tmp_path / "real.gguf")) == "llama"
    assert architecture(tmp_path / "none.gguf") == ""
