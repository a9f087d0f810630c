"""Sources and options become settings, or one line that says what is wrong."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from runtimes import llama
from runtimes.base import RuntimeFailure
from runtimes.llama.settings import DEMO_FILE, read_settings
from runtimes.llama.split import Split
from tests.runtimes.serving import needs_llama


@pytest.mark.llama
@needs_llama
def test_defaults() -> None:
    """The demo model is called demo; a file has its own name; cores and hash find themselves."""
    demo = read_settings("demo", {})
    assert (demo.path, demo.name) == (DEMO_FILE, "demo")
    assert demo.cores >= 1
    assert (demo.threads, demo.context_tokens, demo.content_hash) == (None, None, None)
    assert (demo.gpu_layers, demo.kv_type, demo.mmap) == (-1, "f16", True)
    assert read_settings(str(DEMO_FILE), {"name": "other"}).name == "other"


@pytest.mark.llama
@needs_llama
def test_options_are_read() -> None:
    """Each option arrives."""
    options = {
        "context_tokens": "512",
        "threads": "3",
        "gpu_layers": "0",
        "name": "n",
        "content_hash": "ab" * 32,
        "slots": "5",
        "kv_tokens": "9000",
        "reproducible": "1",
        "split_mode": "row",
        "main_gpu": "1",
        "tensor_split": "3/1.5/0",
        "kv_type": "q8_0",
        "mmap": "0",
        "batch_tokens": "2048",
    }
    drafted = read_settings("demo", {"draft": str(DEMO_FILE), "draft_tokens": "3"})
    assert (drafted.draft, drafted.draft_tokens) == (DEMO_FILE, 3)
    settings = read_settings("demo", options)
    assert settings.context_tokens == 512
    assert (settings.threads, settings.gpu_layers) == (3, 0)
    assert (settings.name, settings.content_hash) == ("n", "ab" * 32)
    assert (settings.slots, settings.kv_tokens, settings.reproducible) == (5, 9000, True)
    assert (settings.kv_type, settings.mmap, settings.batch_tokens) == ("q8_0", False, 2_048)
    assert settings.split == Split(mode=2, main_gpu=1, shares=(3.0, 1.5, 0.0))


@pytest.mark.llama
@needs_llama
@pytest.mark.parametrize(
    "options",
    [
        {"thread": "2"},
        {"threads": "0"},
        {"threads": "many"},
        {"threads": "9" * 5000},
        {"context_tokens": "1"},
        {"gpu_layers": "-2"},
        {"slots": "0"},
        {"slots": "65"},
        {"kv_tokens": "1"},
        {"reproducible": "yes"},
        {"draft": "demo", "reproducible": "1"},
        {"draft": "demo", "draft_tokens": "0"},
        {"draft": "demo", "draft_tokens": "65"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 129},
        {"content_hash": "AB" * 32},
        {"content_hash": "ab"},
        {"split_mode": "tensor"},
        {"main_gpu": "16"},
        {"tensor_split": "0/0"},
        {"tensor_split": "1/nan"},
        {"tensor_split": "1/-1"},
        {"tensor_split": ""},
        {"tensor_split": "/".join(["1"] * 17)},
        {"kv_type": "q8"},
        {"kv_type": "q4_0", "flash_attention": "0"},
        {"mmap": "2"},
        {"batch_tokens": "511"},
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, str]) -> None:
    """Unknown names, numbers out of range and unprintable names are bad requests."""
    with pytest.raises(RuntimeFailure) as failed:
        read_settings("demo", options)
    assert failed.value.code == "bad_request"
    assert "\n" not in failed.value.message


@pytest.mark.llama
@needs_llama
def test_a_draft_that_is_no_file_is_no_model() -> None:
    """Said before anything starts, with its name."""
    with pytest.raises(RuntimeFailure, match=r"gone\.gguf") as failed:
        read_settings("demo", {"draft": "/nowhere/gone.gguf"})
    assert failed.value.code == "invalid_model"


def test_without_llama_cpp_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway-only installation names the package that is missing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RuntimeFailure, match="pip install llama-cpp-python") as failed:
        llama.create("demo", options={})
    assert failed.value.code == "missing_dependency"


@pytest.mark.llama
@needs_llama
def test_making_a_runtime_imports_nothing_heavy() -> None:
    """The daemon's own process never has llama_cpp, numpy, jinja2 or NVML in it."""
    program = (
        "import sys; from runtimes.registry import make_source; make_source('demo', {});"
        "print(sorted({'llama_cpp', 'numpy', 'jinja2', 'pynvml', 'gguf'} & set(sys.modules)))"
    )
    root = pathlib.Path(llama.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[]\n", done.stderr
