"""Fixtures for tests with a real llama.cpp."""

import dataclasses
import pathlib

import pytest

from runtimes.llama.settings import LlamaSettings, read_settings


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model with random weights: it loads at once, and every seed says something else."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path_factory.mktemp("model") / "random.gguf"
    build.write(path)
    return path


@pytest.fixture
def demo(random_model: pathlib.Path) -> LlamaSettings:
    """The random model, with a short patience."""
    settings = read_settings(str(random_model), {})
    return dataclasses.replace(settings, hang_timeout_s=1.0, cancel_timeout_s=1.0)
