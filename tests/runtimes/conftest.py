"""A model for tests of all runtimes and of where models come from."""

import pathlib

import pytest


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model with random weights: it loads at once, and every seed says something else."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    path = tmp_path_factory.mktemp("model") / "random.gguf"
    build.write(path)
    return path
