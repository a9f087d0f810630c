"""Fixtures for tests with real daemons."""

import pathlib
from collections.abc import Iterator

import openai
import pytest

from tests.helpers.daemons import Daemon, Daemons

WORDS = "test:words"
"""A model whose every token can be foretold, for all that is not about llama.cpp."""


@pytest.fixture
def daemons(tmp_path: pathlib.Path) -> Iterator[Daemons]:
    """Daemons of one test, in a folder of its own."""
    with Daemons(tmp_path) as daemons:
        yield daemons


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Five nodes, of which only the first has a model; for tests that only ask."""
    with Daemons(tmp_path_factory.mktemp("standing")) as daemons:
        models = {"anna": WORDS, "bert": "none", "cleo": "none", "dora": "none", "emil": "none"}
        yield daemons.mesh(models)
        daemons.check_logs()


@pytest.fixture(params=[0, 1], ids=["where it is not", "where it is"])
def client(mesh: list[Daemon], request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """The official client, pointed at one of the first two of a module's own mesh."""
    url = f"{mesh[request.param].url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client
