"""Who wants in without the right to: with no token, or one that is expired, used up, mangled, of
another mesh or of its own making; with programs of its own, that check nothing themselves.
"""

import concurrent.futures
import dataclasses
import pathlib
import secrets
import ssl
import time
from collections.abc import Callable

import pytest

from meshd.failures import UserError
from meshd.home import Home
from meshd.peers import STREAM_VERSION, Kind
from meshd.trust.keys import node_seed
from meshd.trust.token import Token, decode_token, encode_token
from protocol.codec import decode_stream, encode_stream
from protocol.crypto import SodiumCrypto, public_key_of
from protocol.fields import pack
from protocol.identity import Address, mesh_id_of
from protocol.issuing import FIRST_TURN, make_invite, make_join_proof
from protocol.messages import Join, JoinAnswer
from protocol.records import JoinProof, Role
from tests.helpers.daemons import Daemon, Daemons, until
from tests.helpers.insider import Insider, PeerStream, is_served, outsider_context
from tests.mesh.attacks.conftest import check_no_leak

pytestmark = pytest.mark.processes


class Newcomer:
    """A key that joined nothing, and says what it likes to a member."""

    def __init__(self, folder: pathlib.Path, token: str) -> None:
        self.token = decode_token(token)
        self.context = outsider_context(folder, token)
        self.crypto = SodiumCrypto(node_seed(Home(folder / "outsider")))

    def wish(self, token: Token | None = None) -> JoinProof:
        """To join by a token, as an honest node signs it."""
        token = token or self.token
        return make_join_proof(token.invite_seed, self.crypto, self.token.mesh)

    def ask(self, daemon: Daemon, invite: bytes, wish: JoinProof) -> str:
        """The refusal that a member answers with; empty: it let us in."""
        with PeerStream(self.context, daemon.port) as stream:
            stream.send_frame(pack((STREAM_VERSION, Kind.GOSSIP)))
            stream.send_frame(encode_stream(Join(invite, wish)))
            answer = decode_stream(stream.receive_frame())
        assert isinstance(answer, JoinAnswer)
        assert not answer.refusal or not (answer.records or answer.statements)
        return answer.refusal


@pytest.fixture
def newcomer(tmp_path: pathlib.Path, token: str) -> Newcomer:
    """Who has seen a token, and knows all that is in it."""
    return Newcomer(tmp_path, token)


def _own_invite(newcomer: Newcomer, issuer_seed: bytes, seed: bytes) -> bytes:
    return make_invite(
        issuer_seed,
        newcomer.token.mesh,
        key=public_key_of(seed),
        turn=FIRST_TURN,
        role=Role.ADMIN,
        expires_at_s=2**33,
        uses=9,
        is_trusted=True,
        owner="me",
    ).wire


def _by_an_invite_of_its_own(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    seed = secrets.token_bytes(32)
    invite = _own_invite(newcomer, secrets.token_bytes(32), seed)
    return invite, make_join_proof(seed, newcomer.crypto, newcomer.token.mesh)


def _by_an_invite_in_the_root_keys_name(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    issuer, seed = secrets.token_bytes(32), secrets.token_bytes(32)
    forged = _own_invite(newcomer, issuer, seed)
    forged = forged.replace(public_key_of(issuer), newcomer.token.root)
    return forged, make_join_proof(seed, newcomer.crypto, newcomer.token.mesh)


def _by_a_longer_invite(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    """The token's own invite, with more uses than it was issued with."""
    seed = secrets.token_bytes(32)
    wire = newcomer.token.invite.wire.replace(newcomer.token.invite.key, public_key_of(seed))
    return wire, make_join_proof(seed, newcomer.crypto, newcomer.token.mesh)


def _without_the_invites_key(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    wish = newcomer.wish()
    other = secrets.token_bytes(64)
    return newcomer.token.invite.wire, dataclasses.replace(wish, invite_signature=other)


def _in_somebody_elses_name(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    """A wish that was recorded."""
    someone = SodiumCrypto(secrets.token_bytes(32))
    token = newcomer.token
    return token.invite.wire, make_join_proof(token.invite_seed, someone, token.mesh)


def _of_another_mesh(newcomer: Newcomer) -> tuple[bytes, JoinProof]:
    """The very same wish, signed for another mesh."""
    token = newcomer.token
    other = mesh_id_of(secrets.token_bytes(32))
    return token.invite.wire, make_join_proof(token.invite_seed, newcomer.crypto, other)


Attempt = Callable[[Newcomer], tuple[bytes, JoinProof]]


@pytest.mark.parametrize(
    ("attempt", "refusal", "counted"),
    [
        (_by_an_invite_of_its_own, "unknown_invite", "not_admitted"),
        (_by_an_invite_in_the_root_keys_name, "unknown_invite", "bad_signature"),
        (_by_a_longer_invite, "unknown_invite", "bad_signature"),
        (_without_the_invites_key, "bad_proof", None),
        (_in_somebody_elses_name, "bad_proof", "not_allowed"),
        (_of_another_mesh, "bad_proof", None),
    ],
)
def test_a_wish_that_does_not_hold(
    trio_of_nodes: list[Daemon],
    newcomer: Newcomer,
    attempt: Attempt,
    refusal: str,
    counted: str | None,
) -> None:
    """It is answered by a reason and nothing else, is logged, and lets nobody in."""
    anna = trio_of_nodes[0]
    drops = anna.status()["drops"].get(counted, 0)
    said = anna.log_text().count("join.refused")
    assert newcomer.ask(anna, *attempt(newcomer)) == refusal
    until("it is in the log", lambda: anna.log_text().count("join.refused") == said + 1, 5.0)
    assert counted is None or anna.status()["drops"][counted] == drops + 1
    for daemon in trio_of_nodes:
        assert not is_served(daemon.port, newcomer.context)


def test_an_expired_token_is_of_no_use_to_any_program(
    trio_of_nodes: list[Daemon], tmp_path: pathlib.Path
) -> None:
    """The member that is asked judges by its own clock, whatever the newcomer thinks of it."""
    anna = trio_of_nodes[0]
    newcomer = Newcomer(tmp_path, anna.invite(uses=9, expires_s=1))
    invite = newcomer.token.invite
    until("it has expired", lambda: time.time() >= invite.expires_at_s, 5.0)
    assert newcomer.ask(anna, invite.wire, newcomer.wish()) == "expired"
    assert not is_served(anna.port, newcomer.context)


def test_of_two_newcomers_with_one_use_one_is_a_member(
    trio_of_nodes: list[Daemon], tmp_path: pathlib.Path
) -> None:
    """They ask two members at once, before either has heard of the other's guest: at most both are
    let in, and then all agree which of the two stays.
    """
    anna, bert, _ = trio_of_nodes
    token = decode_token(anna.invite(uses=1))

    def come(daemon: Daemon) -> Insider | UserError:
        folder = tmp_path / daemon.name
        folder.mkdir()
        there = dataclasses.replace(token, seeds=(Address("127.0.0.1", daemon.port),))
        try:
            return Insider(folder, encode_token(there))
        except UserError as failure:
            return failure

    with concurrent.futures.ThreadPoolExecutor() as pool:
        came = list(pool.map(come, (anna, bert)))
    guests = [guest for guest in came if isinstance(guest, Insider)]
    refused = [failure.message for failure in came if isinstance(failure, UserError)]
    assert guests
    assert all("used up" in reason for reason in refused)

    def served() -> list[list[bool]]:
        return [[is_served(d.port, guest.dialing) for guest in guests] for d in trio_of_nodes]

    until("all agree on one", lambda: _is_one_column(served()), 20.0)


def _is_one_column(served: list[list[bool]]) -> bool:
    return served[0].count(True) == 1 and all(row == served[0] for row in served)


@pytest.mark.parametrize("how", ["no token", "another mesh"])
def test_without_the_meshs_secret_nobody_gets_a_word_in(
    trio_of_nodes: list[Daemon], daemons: Daemons, how: str
) -> None:
    """TLS refuses, before any of our own code reads a byte; it is counted."""
    anna = trio_of_nodes[0]
    before = int(anna.status()["refusals"].get("handshake", 0))
    if how == "no token":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        dora = daemons.add("dora").launch().ready()
        context = outsider_context(daemons.folder, dora.invite())
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert not is_served(anna.port, context)
    until("it is counted", lambda: anna.status()["refusals"]["handshake"] > before, 5.0)


def test_what_a_person_reads_of_a_refusal_holds_no_secret(
    trio_of_nodes: list[Daemon], daemons: Daemons
) -> None:
    """Tokens used up, cut, mangled and of another mesh: one line each, no part of a token in it."""
    anna = trio_of_nodes[0]
    used, fresh = anna.invite(), anna.invite()
    assert daemons.add("bert").cli("join", used).returncode == 0
    foreign = dataclasses.replace(decode_token(fresh), root=public_key_of(secrets.token_bytes(32)))
    carl = daemons.add("carl")
    swapped = fresh[:60] + ("B" if fresh[60] == "A" else "A") + fresh[61:]
    for bad in (used, fresh[:-3], swapped, encode_token(foreign)):
        done = carl.cli("join", bad)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("meshd: ") == 1
        assert not [at for at in range(7, 60, 4) if bad[at : at + 12] in done.stderr]
    assert not carl.home.mesh.exists()
    check_no_leak(trio_of_nodes, fresh)
    assert carl.cli("join", fresh).returncode == 0
