"""From a `--model` value to what another program has on this disk."""

import os
import pathlib

import pytest
import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.runtime import LlamaRuntime
from runtimes.models.default_offer import choose_offer
from runtimes.models.folder import ModelFolder
from runtimes.models.on_disk import models_on_disk
from runtimes.registry import make_source
from tests.runtimes.models.fake_disk import FakeDisk, real_model
from tests.runtimes.serving import needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]


def served_name(source: object) -> str:
    """The name under which a model comes up."""
    assert isinstance(source, LlamaRuntime)

    async def main() -> str:
        async with serving(source):
            assert source.card is not None
            return source.card.name

    return trio.run(main)


def test_a_model_of_another_program_is_served_under_its_name(
    disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    """Named, or offered because nobody said otherwise; also where a runtime's name could stand."""
    disk.ollama("qwen3:0.6b", real_model(tmp_path / "m.gguf").read_bytes())
    assert served_name(make_source("QWEN3:0.6B", {})) == "qwen3:0.6b"
    offer = choose_offer(models_on_disk(), 2**40)
    assert served_name(make_source(offer.spec, offer.options)) == "qwen3:0.6b"


def test_a_file_whose_name_cannot_be_shown_is_served(tmp_path: pathlib.Path) -> None:
    """Under a name that can."""
    path = real_model(tmp_path / os.fsdecode(b"odd\xff\n.gguf"))
    assert served_name(make_source(str(path), {})) == "odd??"


def test_what_is_there_comes_before_what_is_found(
    disk: FakeDisk, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or a folder that is named is meant, whatever other programs call theirs."""
    disk.ollama("here:1b", real_model(tmp_path / "work" / "here" / "m.gguf").read_bytes())
    monkeypatch.chdir(tmp_path / "work")
    assert isinstance(make_source("here", {}), ModelFolder)
    assert isinstance(make_source("here:1b", {}), LlamaRuntime)


def test_a_draft_is_a_file_or_has_a_name_of_another_program(
    disk: FakeDisk, tmp_path: pathlib.Path
) -> None:
    """Wherever its model is from; one that is nowhere is named in one line."""
    path = real_model(tmp_path / "m.gguf")
    disk.ollama("qwen3:0.6b", path.read_bytes())
    for draft in (str(path), "QWEN3"):
        assert served_name(make_source(f"{path},draft={draft}", {})) == "m"
        assert served_name(make_source("qwen3:0.6b", {"draft": draft})) == "qwen3:0.6b"
    for draft in ("qwen4", "none.gguf", "/none", ""):
        with pytest.raises(RuntimeFailure) as failed:
            make_source(str(path), {"draft": draft})
        assert failed.value.code == "invalid_model"
        assert draft in failed.value.message
        assert "\n" not in failed.value.message


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("spec", ["org/repo", "name", "name:tag", "hf:x", "none.gguf", "/none"])
def test_what_is_nowhere_fails_with_one_line(spec: str) -> None:
    """Every form of a name has an answer that says the mend."""
    with pytest.raises(RuntimeFailure) as failed:
        make_source(spec, {})
    assert "\n" not in failed.value.message
