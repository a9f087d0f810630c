"""Keys and values in other formats than 16-bit numbers, with the real llama.cpp."""

import dataclasses
import pathlib

import pytest

from runtimes.base import RuntimeFailure
from runtimes.llama.kv_type import KV_TYPES, is_quantized, kv_bytes
from tests.runtimes.llama.engines import Outcomes, generate, make_engine
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model whose heads have 32 numbers."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    build.write(path, build.Shape(width=128))
    return path


def answer(path: pathlib.Path, **changes: object) -> list[int]:
    """Twenty tokens, greedily."""
    engine = make_engine(path, **changes)
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, temperature=0.0))
    while outcomes.running:
        outcomes.step()
    return outcomes.of[1].ids


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_format_works(wide: pathlib.Path, kv_type: str) -> None:
    """And answers as 16 bits do where little is rounded."""
    ids = answer(wide, kv_type=kv_type)
    assert len(ids) == 20
    if kv_bytes(64, kv_type) >= 34:
        assert ids == answer(wide)


def test_what_is_rounded_goes_on_as_it_would_have(wide: pathlib.Path) -> None:
    """From any place, in the reproducible setting."""
    engine = make_engine(wide, kv_type="q8_0", reproducible=True)
    request = generate(1, temperature=0.8)
    outcomes = Outcomes(engine)
    outcomes.open(request)
    while outcomes.running:
        outcomes.step()
    whole = outcomes.of[1].ids
    for cut in (1, 7, 19):
        rest = dataclasses.replace(
            request, request=cut + 1, continued_ids=tuple(whole[:cut]), max_tokens=20 - cut
        )
        outcomes.open(rest)
        while outcomes.running:
            outcomes.step()
        assert whole[:cut] + outcomes.of[cut + 1].ids == whole


def test_without_flash_attention_the_line_says_what_mends_it(wide: pathlib.Path) -> None:
    """Where llama.cpp cannot have it, too: it is no lack of memory."""
    with pytest.raises(RuntimeFailure, match=r"kv_type=q8_0 .* leave it out") as failed:
        make_engine(wide, kv_type="q8_0", flash_attention=False)
    assert failed.value.code == "invalid_model"


def test_weights_need_not_be_mapped(wide: pathlib.Path) -> None:
    """The same answer from memory of their own."""
    assert answer(wide, mmap=False) == answer(wide)


def test_formats_are_ggmls() -> None:
    """Their numbers, and bytes for 32 numbers, by the library that writes GGUF files."""
    gguf = pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    for name, (code, size) in KV_TYPES.items():
        kind = gguf.GGMLQuantizationType[name.upper()]
        numbers, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        assert (code, size) == (int(kind), block_bytes * 32 // numbers)
        assert is_quantized(name) == (numbers > 1)
