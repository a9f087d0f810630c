"""Fixtures for tests with a real llama.cpp."""

import dataclasses
import pathlib

import pytest

from runtimes.llama.settings import LlamaSettings, read_settings


@pytest.fixture
def demo(random_model: pathlib.Path) -> LlamaSettings:
    """The random model, with less patience than the tests have themselves."""
    settings = read_settings(str(random_model), {})
    return dataclasses.replace(settings, hang_timeout_s=10.0, cancel_timeout_s=10.0)
