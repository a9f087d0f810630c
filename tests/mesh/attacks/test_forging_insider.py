"""A member that speaks for others: each kind of statement and record, by datagram and by stream."""

import pathlib
import ssl

import pytest

from meshd.home import Home
from meshd.peers import STREAM_VERSION, Kind
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed, to_pem
from meshd.trust.token import decode_token
from protocol.codec import encode_datagram, encode_rider, encode_stream
from protocol.fields import pack
from protocol.identity import NodeId, key_from_text
from protocol.messages import Gossip, PushPull
from tests.helpers.daemons import Daemon, until
from tests.helpers.forgeries import HIGH, STOLEN_MODEL, STOLEN_NAME, Forger, Forgery
from tests.helpers.insider import Insider, PeerStream, is_served
from tests.mesh.attacks.conftest import NAMES

pytestmark = pytest.mark.processes

STATEMENTS = ("alive", "left", "offer", "accusation")
ACTS = ("invite", "grant", "revocation", "API key")
RECORDS = (
    *(f"{act} by the root key" for act in ACTS),
    *(f"{act} by a worker" for act in ACTS),
    "admission by the victim",
    "admission by the root key",
    "admission of who does not want to",
    "admission to another role",
    "admission beyond the uses",
)
WAYS = ("datagram", "stream")


class Liar:
    """A member of its own for one lie: after a bad signature nobody listens to it for a while."""

    def __init__(self, folder: pathlib.Path, nodes: list[Daemon], token: str) -> None:
        self._anna, bert, cleo = nodes
        self._token = decode_token(token)
        self.insider = Insider(folder, token)
        self._folder = folder
        rows = {row["name"]: row for row in self._anna.get("/mesh/v1/nodes")["nodes"]}
        self._seed = node_seed(self.insider.home)
        self._forger = Forger(
            self._seed,
            self.insider.mesh,
            NodeId(key_from_text(bert.id)),
            NodeId(key_from_text(cleo.id)),
            rows["cleo"]["incarnation"],
        )

    def forge(self, what: str) -> Forgery:
        """A lie of that name."""
        lies = [*self._forger.statements(), *self._forger.records(self._token)]
        return next(lie for lie in lies if lie.what == what)

    def tell(self, lie: Forgery, way: str) -> None:
        """Say it to anna, and wait until she has read it."""
        if way == "datagram":
            with self.insider.talk_to(self._anna.id, self._anna.port) as talk:
                talk.send(talk.sealed(encode_datagram(Gossip()) + encode_rider(lie.wire)))
                talk.ping()
            return
        items = ((lie.wire,), ()) if lie.is_record else ((), (lie.wire,))
        with PeerStream(self.insider.dialing, self._anna.port) as stream:
            stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
            stream.send_frame(encode_stream(PushPull(False, *items)))
            stream.end()
            stream.receive()

    def accomplice(self) -> ssl.SSLContext:
        """The TLS of the key that the liar wants to be admitted, which knows all that it knows."""
        home = Home(self._folder / "accomplice")
        home.create()
        seed = self._forger.accomplice_seed
        home.write(home.node_key, to_pem(seed), secret=True)
        ensure_certificates(home, self._token.mesh_secret, seed)
        return make_contexts(home)[0]


def _drops(daemon: Daemon, reason: str) -> int:
    return int(daemon.status()["drops"].get(reason, 0))


def _check_views(nodes: list[Daemon], addresses: dict[str, str]) -> None:
    """Nobody was moved, renamed, sent away or given a model."""
    for daemon in nodes:
        rows = {row["name"]: row for row in daemon.get("/mesh/v1/nodes")["nodes"]}
        assert STOLEN_NAME not in rows
        for name, address in addresses.items():
            assert rows[name]["address"] == address
            assert rows[name]["incarnation"] < HIGH
            assert rows[name]["state"] in ("alive", "suspect")  # the machine may be busy
        assert STOLEN_MODEL not in daemon.models()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", STATEMENTS)
def test_nobody_speaks_for_another(
    trio_of_nodes: list[Daemon], token: str, tmp_path: pathlib.Path, what: str, way: str
) -> None:
    """The lie is refused and counted where it came in, and reaches nobody else."""
    anna = trio_of_nodes[0]
    addresses = {daemon.name: str(daemon.said["listen"]) for daemon in trio_of_nodes}
    liar = Liar(tmp_path, trio_of_nodes, token)
    lie = liar.forge(what)
    before = _drops(anna, lie.reason)
    liar.tell(lie, way)
    until("it is counted", lambda: _drops(anna, lie.reason) == before + 1, 5.0)
    _check_views(trio_of_nodes, addresses)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", RECORDS)
def test_nobody_lets_in_beyond_its_authority(
    trio_of_nodes: list[Daemon], token: str, tmp_path: pathlib.Path, what: str, way: str
) -> None:
    """The record is refused and counted, and who should have come in by it is served nowhere."""
    anna = trio_of_nodes[0]
    liar = Liar(tmp_path, trio_of_nodes, token)
    lie = liar.forge(what)
    before = _drops(anna, lie.reason)
    liar.tell(lie, way)
    until("it is counted", lambda: _drops(anna, lie.reason) == before + 1, 5.0)
    for daemon in trio_of_nodes:
        assert not is_served(daemon.port, liar.accomplice())
        rows = {row["name"]: row for row in daemon.get("/mesh/v1/nodes")["nodes"]}
        assert [rows[name]["role"] for name in NAMES] == ["admin", "worker", "worker"]
    assert is_served(anna.port, liar.insider.dialing)  # so does who is a member
