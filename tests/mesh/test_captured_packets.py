"""What an eavesdropper on the cable between two machines can read: nothing that anybody said."""

import itertools
import pathlib

import pytest

from meshd.trust.mesh import read_mesh
from meshd.trust.token import decode_token
from protocol.identity import NodeId, key_from_text, short_id
from tests.helpers.capture import TCP, UDP, Capture, capturing
from tests.helpers.daemons import Daemon, Daemons, until
from tests.helpers.namespaces import needs_namespaces, two_namespaces

pytestmark = [pytest.mark.processes, pytest.mark.namespaces, needs_namespaces]

MODEL = "test:unmistakable-model"
PROMPT = "Where is the badger's golden treasure buried?"
NAMES = ("anna-in-the-attic", "bert-in-the-basement")
PIECE = 8
"""Bytes of a secret that would be a leak; by chance they come once in 10^14 captures."""


def _pieces(secret: bytes) -> list[bytes]:
    pieces = [secret[at : at + PIECE] for at in range(0, len(secret) - PIECE + 1, PIECE)]
    return [piece for piece in pieces if len(set(piece)) > 2]  # zeros are everywhere


def _ask(daemon: Daemon) -> str:
    done = daemon.cli("chat", "--model", "unmistakable-model", PROMPT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _check_traffic(capture: Capture, addresses: tuple[str, str]) -> None:
    """Both kinds went both ways, and enough of them to hold all that was said."""
    seen: dict[tuple[int, str, str], int] = {}
    for packet in capture.packets():
        key = (packet.protocol, packet.source, packet.to)
        seen[key] = seen.get(key, 0) + len(packet.payload)
    for protocol, (source, to) in itertools.product((UDP, TCP), itertools.permutations(addresses)):
        assert seen.get((protocol, source, to), 0) > 1_000, seen


def test_nothing_that_is_said_is_on_the_cable(tmp_path: pathlib.Path) -> None:
    """Joining, gossip, and a question of one node to the model on the other: no prompt, answer,
    name of a model or node, and no part of a token is in any packet.
    """
    with two_namespaces() as machines, Daemons(tmp_path) as daemons:
        anna, bert = (
            daemons.add(name, model=model, listen=None, gateway=None, prefix=machine.prefix)
            for name, model, machine in zip(NAMES, (MODEL, "none"), machines, strict=True)
        )
        anna.launch().ready()
        token = str(anna.cli_json("invite", "--owner", "zoe-the-owner")["token"])
        with capturing(machines[0], tmp_path) as capture:
            bert.launch("--join", token).ready()
            until("the model is known", lambda: bert.cli_json("models")["models"], 30.0)
            answer = _ask(bert)
            until("bert's ping was acked", lambda: _round_trip(bert), 30.0)
            assert [daemon.stop() for daemon in (bert, anna)] == [0, 0]
        _check_traffic(capture, (machines[0].address, machines[1].address))
        words = [word for word in answer.split() if len(word.encode()) >= 6]
        assert len(words) > 3, answer
        mesh, invite = read_mesh(bert.home), decode_token(token)
        assert mesh is not None
        secrets = [PROMPT.encode(), token.removeprefix("meshd1_").encode(), mesh.mesh_secret]
        secrets += [mesh.root, invite.invite_seed, invite.invite.key, *mesh.records]
        secrets += [anna.home.root_key.read_bytes(), bert.home.node_key.read_bytes()]
        never = [piece for secret in secrets for piece in _pieces(secret)]
        texts = ("unmistakable", "meshd1_", "badger", "treasure", "zoe-the-owner", *NAMES, *words)
        never += [text.encode() for text in texts]
        in_clear = short_id(NodeId(key_from_text(anna.id)))  # the search finds what is to be found
        assert any(in_clear in frame for frame in capture.frames)
        for frame in capture.frames:
            assert not [text for text in never if text in frame]


def _round_trip(daemon: Daemon) -> bool:
    rows = {row["name"]: row["rtt_ms"] for row in daemon.cli_json("nodes")["nodes"]}
    return rows[NAMES[0]] is not None
