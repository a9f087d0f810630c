"""How a model on the Hub is written, and which file that means."""

import pytest

from runtimes.base import RuntimeFailure
from runtimes.models.hub_reference import (
    HubReference,
    choose,
    models_in,
    projector_of,
    read_reference,
)
from runtimes.models.quantization import quantization_of


@pytest.mark.parametrize(
    ("text", "repository", "quantization"),
    [
        ("Qwen/Qwen3-0.6B-GGUF", "Qwen/Qwen3-0.6B-GGUF", ""),
        ("a_b/c.d:Q4_K_M", "a_b/c.d", "Q4_K_M"),
        ("o/r:sub/model-q8_0.gguf", "o/r", "sub/model-q8_0.gguf"),
    ],
)
def test_references_are_read(text: str, repository: str, quantization: str) -> None:
    """ORG/REPO, with or without a format or a file."""
    reference = read_reference(text)
    assert (reference.repository, reference.quantization) == (repository, quantization)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    ["", "repo", "a/b/c", "a/b:", "/b", "a/", "../b", "a/..b", "a/b?x", "a/b:Q 4", "a b/c",
     "http://host/x", "a/b\n", "a/" + "x" * 500],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    """One line with an example; nothing of it reaches a URL."""
    with pytest.raises(RuntimeFailure, match="such as hf:") as failed:
        read_reference(text)
    assert failed.value.code == "invalid_model"
    assert "\n" not in failed.value.message


@pytest.mark.parametrize(
    ("stem", "quantization"),
    [
        ("Qwen3-0.6B-Q8_0", "Q8_0"),
        ("tiny.q4_k_m", "Q4_K_M"),
        ("model-IQ2_XXS", "IQ2_XXS"),
        ("model-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("model-fp16", "F16"),
        ("model.bf16", "BF16"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("Q8_0", "Q8_0"),
        ("Qwen3-0.6B", ""),
        ("Q-model", ""),
    ],
)
def test_the_format_is_read_from_the_name(stem: str, quantization: str) -> None:
    """As people and programs write it."""
    assert quantization_of(stem) == quantization


def sizes(*names: str) -> dict[str, int]:
    """Files, each larger than the one before."""
    return {name: 100 + number for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("wanted", "files", "chosen"),
    [
        ("", ("m-Q2_K.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf"), "m-Q4_K_M"),
        ("", ("m-Q2_K.gguf", "m-F16.gguf", "m-Q8_0.gguf"), "m-Q8_0"),
        ("", ("m-Q2_K.gguf", "m-F16.gguf"), "m-F16"),
        ("", ("m-Q6_K.gguf", "m-Q5_K.gguf"), "m-Q6_K"),
        ("", ("mmproj-F16.gguf", "README.md", "m.gguf"), "m"),
        ("q8_0", ("m-Q4_K_M.gguf", "m-Q8_0.gguf"), "m-Q8_0"),
        ("FP16", ("m-F16.gguf", "m-Q8_0.gguf"), "m-F16"),
        ("M-Q8_0.gguf", ("m-Q8_0.gguf", "n-Q8_0.gguf"), "m-Q8_0"),
        ("sub/m", ("sub/m.gguf", "n.gguf"), "m"),
        ("Q4_K_M", ("d/m-Q4_K_M-00001-of-00002.gguf", "d/m-Q4_K_M-00002-of-00002.gguf"),
         "m-Q4_K_M"),
    ],
)  # fmt: skip
def test_the_file_is_chosen(wanted: str, files: tuple[str, ...], chosen: str) -> None:
    """By format, by name, or the sensible one."""
    reference = HubReference(repository="o/r", quantization=wanted)
    assert choose(reference, models_in(sizes(*files))).name == chosen


def test_a_split_is_fetched_whole_or_not_at_all() -> None:
    """All parts in order; a split with a missing part is no model."""
    names = [f"d/m-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
    (model,) = models_in(sizes(*reversed(names)))
    assert model.files == tuple(names)
    assert model.size_bytes == 303
    assert models_in(sizes(*names[:2])) == []


@pytest.mark.parametrize(
    "name", ["../m.gguf", "a/../../m.gguf", "/m.gguf", "a\\m.gguf", "c:m.gguf", "a\nb.gguf"]
)
def test_files_that_would_leave_the_cache_are_not_there(name: str) -> None:
    """A repository's names come from anybody."""
    assert models_in({name: 1}) == []


@pytest.mark.parametrize(
    ("wanted", "files", "words"),
    [
        ("Q5_K_M", ("m-Q4_K_M.gguf", "m-Q8_0.gguf"), ("no Q5_K_M", "Q4_K_M, Q8_0")),
        ("Q8_0", ("m-Q8_0.gguf", "n-Q8_0.gguf"), ("m-Q8_0, n-Q8_0", "after the colon")),
        ("", ("model.safetensors",), ("no GGUF file", "-GGUF")),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    wanted: str, files: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """One line that can be acted on."""
    with pytest.raises(RuntimeFailure) as failed:
        choose(HubReference(repository="o/r", quantization=wanted), models_in(sizes(*files)))
    assert failed.value.code == "invalid_model"
    for word in words:
        assert word in failed.value.message


@pytest.mark.parametrize(
    ("files", "projector"),
    [
        (("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-UD-IQ4_NL.gguf", "mmproj-F16.gguf"),
         "mmproj-F16.gguf"),
        (("m-Q4_K_M.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"), "mmproj-BF16.gguf"),
        (("m-Q4_K_M.gguf", "mmproj-F16.gguf", "mm.mmproj-F32.gguf"), "mmproj-F16.gguf"),
        (("big-Q4_K_M.gguf", "mmproj-F16.gguf", "big.mmproj-F32.gguf"), "big.mmproj-F32.gguf"),
        (("big-Q4_K_M.gguf", "other.gguf", "mmproj-F16.gguf"), None),
        (("a/big-Q4_K_M.gguf", "a/mmproj.gguf", "mmproj-big.gguf"), "a/mmproj.gguf"),
        (("a/big-Q4_K_M.gguf", "mmproj-big.gguf"), None),
        (("big-Q4_K_M-00001-of-00002.gguf", "big-Q4_K_M-00002-of-00002.gguf", "mmproj-F16.gguf"),
         "mmproj-F16.gguf"),
        (("big-Q4_K_M.gguf", "mmproj-F16.safetensors", "README.mmproj"), None),
        (("big-Q4_K_M.gguf",), None),
    ],
)  # fmt: skip
def test_the_projector_is_the_one_that_a_folder_has(
    files: tuple[str, ...], projector: str | None
) -> None:
    """Beside the model, the most telling name, then the smallest; only GGUF files count."""
    listed = sizes(*files)
    model = choose(HubReference(repository="o/r", quantization="Q4_K_M"), models_in(listed))
    assert projector_of(model, listed) == projector


@pytest.mark.parametrize(
    "name", ["../mmproj.gguf", "./mmproj.gguf", "a//mmproj.gguf", "/mmproj.gguf", "mmproj\\.gguf",
             "c:mmproj.gguf", "mmproj\n.gguf", "mmproj-m\x1b.gguf"]
)  # fmt: skip
def test_projectors_that_would_leave_the_cache_are_not_there(name: str) -> None:
    """Nor those whose names can be read in two ways."""
    listed = sizes("m.gguf", "a/m.gguf", name)
    for model in models_in(listed):
        assert projector_of(model, listed) is None


def test_of_thousands_of_projectors_one_is_chosen() -> None:
    """Each is looked at once."""
    listed = sizes("m.gguf", *(f"mmproj-q{number}.gguf" for number in range(5_000)))
    (model,) = models_in(listed)
    assert projector_of(model, listed) == "mmproj-q0.gguf"
