"""Joining: what seeds may answer, and what a person then reads."""

import pathlib

import pytest
import trio

from meshd import joining
from meshd.failures import UserError
from meshd.frames import FrameStream, StreamBroken
from meshd.home import Home
from meshd.joining import (
    JoinRefused,
    join,
)
from meshd.peers import Handler, Kind
from meshd.persistence import read_snapshot
from meshd.trust.keys import node_seed
from meshd.trust.mesh import read_mesh
from protocol.codec import encode_stream
from protocol.crypto import SodiumCrypto
from protocol.identity import Address, NodeId
from protocol.joining import JoinRefusal
from protocol.messages import JoinAnswer, PushPull
from protocol.snapshot import Snapshot
from tests.helpers.nodes import Authorities
from tests.meshd.founder import Founder, is_member, run
from tests.meshd.members import Member, until


@pytest.fixture
def founder(tmp_path: pathlib.Path) -> Founder:
    return Founder(tmp_path)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    home = Home(tmp_path / "newcomer")
    home.create()
    return home


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds are asked again after a moment."""
    monkeypatch.setattr(joining, "RETRY_S", 0.05)


@pytest.fixture
def hurried(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And get two seconds instead of a quarter of a minute."""
    monkeypatch.setattr(joining, "SEEDS_S", 2.0)


# ---- what seeds may answer ----


def test_seeds_that_are_not_there_end_in_time(founder: Founder, home: Home, hurried: None) -> None:
    """With the reason of each, and the home as it was but for its own key."""

    async def test() -> None:
        token = founder.token(Address("127.0.0.1", 1), Address("127.0.0.1", 2))
        with pytest.raises(
            UserError, match=r"within 2 s \(127\.0\.0\.1:1: connection refused; 127\.0\.0\.1:2: con"
        ):
            await join(home, token)
        assert read_mesh(home) is None

    run(test)


def test_a_seed_that_comes_up_late_is_found(founder: Founder, home: Home, eager: None) -> None:
    """Seeds are tried again and again until the time is over."""

    async def test() -> None:
        async with founder.serving() as token:
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, home, token)
            await trio.sleep(0.1)
            async with founder.member.serving({Kind.GOSSIP: founder}, port=token.seeds[0].port):
                await until(lambda: read_mesh(home) is not None)

    run(test)


def test_the_next_seed_helps_when_one_is_gone(founder: Founder, home: Home) -> None:
    """Names that no host can have are passed over like any that is not there."""

    async def test() -> None:
        async with founder.serving() as token:
            seeds = (Address("fe80::1%" + "a" * 90, 1), Address("127.0.0.1", 1), *token.seeds)
            await join(home, founder.token(*seeds))

    run(test)
    assert is_member(home, founder.mesh.authorities.root)


async def _answer_nothing(peer: NodeId, frames: FrameStream) -> None:
    await frames.receive(10_000)
    raise StreamBroken("no")


def _answering(data: bytes) -> Handler:
    async def handler(peer: NodeId, frames: FrameStream) -> None:
        await frames.receive(10_000)
        await frames.send(data)

    return handler


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_answer_nothing, "closed the stream; it may have left|reset"),
        (_answering(b""), "malformed"),
        (_answering(b"\xff" * 1_000), "malformed"),
        (_answering(encode_stream(PushPull(True, (), ()))), "something else"),
    ],
)
def test_a_seed_that_answers_nonsense_is_no_seed(
    founder: Founder, home: Home, hurried: None, handler: Handler, words: str
) -> None:
    """It is asked again until the time is over, and its answer changes nothing."""

    async def test() -> None:
        async with founder.serving(handler) as token:
            with pytest.raises(UserError, match=f"no member .* could be reached .*({words})"):
                await join(home, token)
        assert read_mesh(home) is None

    run(test)


def test_another_meshs_seed_is_no_seed(
    founder: Founder, home: Home, hurried: None, tmp_path: pathlib.Path
) -> None:
    """Whoever listens at an old address does not get our wish to join."""
    stranger = Member(tmp_path / "stranger", 7, {}, secret=b"x" * 32)

    async def test() -> None:
        async with stranger.serving({Kind.GOSSIP: founder}) as address:
            with pytest.raises(UserError, match="it belongs to another mesh"):
                await join(home, founder.token(address))
        assert not founder.admitted

    run(test)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_an_answer_that_proves_no_admission_is_not_believed(
    founder: Founder, home: Home, is_foreign: bool
) -> None:
    """ "Yes" alone makes nobody a member; neither do the records of another root key."""
    authorities = Authorities("other mesh") if is_foreign else founder.mesh.authorities
    records: tuple[bytes, ...] = (authorities.invite.wire, authorities.founding.wire)
    if is_foreign:
        invite, admission = authorities.admit(SodiumCrypto(node_seed(home)))
        records += (invite.wire, admission.wire)
    answer = encode_stream(JoinAnswer("", (*records, b"junk"), (b"junk",)))

    async def test() -> None:
        async with founder.serving(_answering(answer)) as token:
            with pytest.raises(UserError, match="does not prove an admission"):
                await join(home, token)
        assert read_mesh(home) is None
        assert read_snapshot(home) == Snapshot()

    run(test)


PASSING = (JoinRefusal.CATCHING_UP, JoinRefusal.CANNOT_ADMIT)
FINAL = [refusal for refusal in JoinRefusal if refusal not in PASSING]


@pytest.mark.parametrize("refusal", FINAL)
def test_each_refusal_has_its_own_words(founder: Founder, home: Home, refusal: JoinRefusal) -> None:
    """And says at once what to do: no other seed is asked."""

    async def test() -> None:
        async with founder.serving(_answering(encode_stream(JoinAnswer(refusal, (), ())))) as token:
            with pytest.raises(JoinRefused) as caught:
                await join(home, token)
        assert caught.value.message == joining._REFUSALS[refusal]
        assert read_mesh(home) is None

    run(test)


@pytest.mark.parametrize("passing", PASSING)
def test_who_cannot_admit_now_is_passed_over(
    founder: Founder, home: Home, passing: JoinRefusal
) -> None:
    """It does not know yet what was decided meanwhile, or it may not let an admin in; another
    member, or a moment later this one, does.
    """
    asked: list[NodeId] = []

    async def answer(peer: NodeId, frames: FrameStream) -> None:
        asked.append(peer)
        if len(asked) > 1:
            await founder(peer, frames)
            return
        await frames.receive(10_000)
        await frames.send(encode_stream(JoinAnswer(passing, (), ())))

    async def test() -> None:
        async with founder.serving(answer) as token:
            await join(home, token)
        assert len(asked) == 2
        assert read_mesh(home) is not None

    run(test)


def test_an_unknown_refusal_is_shown_harmlessly(founder: Founder, home: Home) -> None:
    """A later version's word, or a hostile one."""

    async def test() -> None:
        answer = encode_stream(JoinAnswer("\x1b[2J" + "x" * 60, (), ()))
        async with founder.serving(_answering(answer)) as token:
            with pytest.raises(JoinRefused, match="the mesh refused") as caught:
                await join(home, token)
        assert caught.value.message.isprintable()

    run(test)


@pytest.mark.parametrize(
    ("uses", "expires_in_s", "words"), [(1, 3600, "used up"), (2, 0, "has expired")]
)
def test_a_real_mesh_refuses_what_it_should(
    tmp_path: pathlib.Path, home: Home, uses: int, expires_in_s: int, words: str
) -> None:
    """The second at an invite for one; anybody at one that has expired."""
    founder = Founder(tmp_path, uses=uses, expires_in_s=expires_in_s)
    first = Home(tmp_path / "first")
    first.create()

    async def test() -> None:
        async with founder.serving() as token:
            if expires_in_s:
                await join(first, token)
            with pytest.raises(JoinRefused, match=words):
                await join(home, token)

    run(test)
