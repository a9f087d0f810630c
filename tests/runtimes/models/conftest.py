"""A disk of one's own: nothing of the person who runs the tests is looked at."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from runtimes.models import ollama
from tests.runtimes.models.fake_disk import FakeDisk
from tests.runtimes.models.fake_hub import FakeHub


@pytest.fixture
def disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    """An empty home, without any variable that leads elsewhere."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "OLLAMA", "LLAMA_", "XDG_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setattr(ollama, "SERVICE_FOLDER", tmp_path / "no-service")
    return FakeDisk(home)


@pytest.fixture
def hub(disk: FakeDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub without a repository, which all clients here talk to, and a home without a cache."""
    del disk
    with FakeHub().running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
