"""What the tests of calls ask: a model of the `family` that the module has a fixture for."""

import pathlib

import pytest

from tests.runtimes.llama.calling_models import write_model


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Random weights in its manner."""
    return write_model(tmp_path_factory.mktemp(family) / "random.gguf", family)
