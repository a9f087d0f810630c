"""Fixtures for tests with a real llama.cpp."""

import dataclasses

import pytest

from runtimes.llama.settings import LlamaSettings, read_settings


@pytest.fixture
def demo() -> LlamaSettings:
    """The demo model, with a short patience."""
    return dataclasses.replace(read_settings("demo", {}), hang_timeout_s=1.0, cancel_timeout_s=1.0)
