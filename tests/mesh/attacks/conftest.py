"""Fixtures for attackers: a mesh to attack, which must go on serving, and say no secret."""

from collections.abc import Iterator

import pytest

from meshd.trust.token import decode_token
from tests.helpers.daemons import Daemon, Daemons, wait_state
from tests.mesh.conftest import WORDS

NAMES = ("anna", "bert", "cleo")


@pytest.fixture(scope="module")
def trio_of_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Anna, who founded the mesh and has a model, bert and cleo."""
    with Daemons(tmp_path_factory.mktemp("attacked")) as daemons:
        yield daemons.mesh({"anna": WORDS, "bert": "none", "cleo": "none"})
        daemons.check_logs()


@pytest.fixture(scope="module")
def token(trio_of_nodes: list[Daemon]) -> Iterator[str]:
    """An invite for many; no log ever shows a part of it."""
    token = trio_of_nodes[0].invite(uses=1_000)
    yield token
    check_no_leak(trio_of_nodes, token)


def check_no_leak(daemons: list[Daemon], token: str) -> None:
    """No log holds a secret of the token, in any of the ways in which bytes are written."""
    read = decode_token(token)
    shown = [token[7:40], token[-40:]]
    for secret in (read.mesh_secret, read.invite_seed):
        shown += [secret.hex(), repr(secret)[2:20]]
    for daemon in daemons:
        text = daemon.log_text()
        assert not [secret for secret in shown if secret in text]


@pytest.fixture(autouse=True)
def serves_on(trio_of_nodes: list[Daemon]) -> Iterator[None]:
    """After each attack all are there, and bert's app is answered by anna's model."""
    yield
    for name in NAMES:
        wait_state(trio_of_nodes, name, "alive", 20.0)
    assert trio_of_nodes[1].chat("words", max_tokens=2).status == 200
