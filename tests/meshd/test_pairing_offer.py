"""An offer that waits for its code, over real connections: who ends it, and who does not."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from meshd import pairing_offer, pairing_search
from meshd.failures import UserError
from meshd.frames import FrameStream, StreamBroken
from meshd.pairing_offer import CONNECTIONS_MAX, Offer
from meshd.pairing_search import Search
from meshd.sockets import bind_pairing
from meshd.trust.pairing import TRIES_MAX, Code, Hello, JoinerSide, OfferSide, refusal
from meshd.trust.token import Token, encode_token
from protocol.fields import pack
from protocol.identity import Address, MeshId, mesh_id_of
from tests.helpers.nodes import Authorities
from tests.meshd.founder import INVITE_SEED
from tests.meshd.members import SECRET, until

TIMEOUT_S = 30.0
CODE = Code("47", "39158206")
WRONG = Code("47", "00000000")


def _token() -> Token:
    mesh = Authorities()
    return Token(
        root=mesh.root,
        mesh_secret=SECRET,
        invite_seed=INVITE_SEED,
        invite=mesh.issue(INVITE_SEED),
        seeds=(Address("127.0.0.1", 7700),),
    )


MESH = mesh_id_of(_token().root)


class Waiting:
    """An offer on loopback, and all that came of it."""

    def __init__(self) -> None:
        self.made: list[Token] = []
        self.left: list[int] = []
        self.refusals: Counter[str] = Counter()
        self.ended: list[object] = []
        """The token, or why there is none."""
        self.address = Address("127.0.0.1", 0)
        self._opened: list[FrameStream] = []
        self.offer = Offer(
            CODE,
            MESH,
            Authorities().founder.node_id,
            make_token=self._make,
            on_wrong=self._note,
            count=self._count,
        )

    def _make(self) -> Token:
        self.made.append(_token())
        return self.made[-1]

    async def _note(self, left: int) -> None:
        await trio.lowlevel.checkpoint()
        self.left.append(left)

    def _count(self, reason: str) -> None:
        self.refusals[reason] += 1

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Waiting"]:
        listening = bind_pairing("127.0.0.1", 0)
        self.address = Address("127.0.0.1", listening.getsockname()[1])

        async def wait() -> None:
            try:
                self.ended.append(await self.offer.run(listening))
            except UserError as failure:
                self.ended.append(failure.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            yield self
            for frames in self._opened:
                await frames.aclose()
            nursery.cancel_scope.cancel()

    async def connect(self) -> FrameStream:
        """A connection that is closed with the offer."""
        self._opened.append(FrameStream(await trio.open_tcp_stream(*self.address)))
        return self._opened[-1]

    async def join(self, code: Code) -> str:
        return await Search(code, lambda mesh: None).at(self.address)

    async def is_closed(self) -> bool:
        """Whether nobody listens there any more."""
        try:
            stream = await trio.open_tcp_stream(*self.address)
        except OSError:
            return True
        await stream.aclose()
        return False


def _run(test: Callable[[Waiting], Awaitable[None]]) -> Waiting:
    waiting = Waiting()

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with waiting.open():
                await test(waiting)

    trio.run(main)
    return waiting


def test_the_code_gets_one_token_and_ends_the_offer() -> None:
    """The invite is made then and not before; afterwards nobody listens."""

    async def test(waiting: Waiting) -> None:
        assert not waiting.made
        text = await waiting.join(CODE)
        await until(lambda: bool(waiting.ended))
        assert [encode_token(token) for token in waiting.made] == [text]
        assert waiting.ended == waiting.made
        assert await waiting.is_closed()

    assert not _run(test).refusals


def test_three_wrong_codes_end_the_offer() -> None:
    """Each joiner hears how many tries are left; the right code comes too late then."""

    async def test(waiting: Waiting) -> None:
        for said in ("2 tries are left", "1 tries are left", "the offer ended"):
            with pytest.raises(UserError, match=said):
                await waiting.join(WRONG)
        await until(lambda: bool(waiting.ended))
        with pytest.raises(UserError):
            await waiting.join(CODE)

    waiting = _run(test)
    assert waiting.left == [2, 1, 0]
    assert not waiting.made
    assert "3 wrong codes were tried" in str(waiting.ended[0])
    assert waiting.refusals == {"pairing_wrong_code": 3}


def test_guesses_at_once_are_no_more_than_guesses_in_turn() -> None:
    """Of four proofs that come together three are judged, and each of those is answered."""

    async def test(waiting: Waiting) -> None:
        streams = [await waiting.connect() for _ in range(CONNECTIONS_MAX)]
        proofs = []
        for stream in streams:
            hello = await stream.receive(256)
            assert hello is not None
            proofs.append(JoinerSide(WRONG, Hello(hello)).proof)
        for stream, proof in zip(streams, proofs, strict=True):
            await stream.send(proof)
        answers = []
        for stream in streams:
            with contextlib.suppress(StreamBroken):
                answers.append(await stream.receive(8_192))
        assert sorted(filter(None, answers)) == [refusal(left) for left in range(TRIES_MAX)]
        await until(lambda: bool(waiting.ended))

    assert _run(test).left == [2, 1, 0]


def test_who_says_nothing_is_no_try_and_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four silent connections are all that is listened to, for a while; then the code works."""
    monkeypatch.setattr(pairing_offer, "CONNECTION_S", 3.0)

    async def test(waiting: Waiting) -> None:
        silent = [await waiting.connect() for _ in range(CONNECTIONS_MAX)]
        for stream in silent:
            assert await stream.receive(256) is not None
        with pytest.raises(UserError, match="busy"):
            await waiting.join(CODE)
        for stream in silent:
            with contextlib.suppress(StreamBroken):
                assert await stream.receive(256) is None
        await waiting.join(CODE)

    waiting = _run(test)
    assert waiting.refusals == {"pairing_busy": 1, "pairing_silent": CONNECTIONS_MAX}
    assert not waiting.left


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05\x92abcd",
        b"\0\0\0\x80short",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"".join((b"\0\0\0\x47", pack((b"A" + b"\xff" * 32, b"\0" * 32)))),
    ],
)
def test_nonsense_is_refused_and_is_no_try(sent: bytes) -> None:
    """Port scanners, browsers and broken clients do not end an offer."""

    async def test(waiting: Waiting) -> None:
        async with await trio.open_tcp_stream(*waiting.address) as stream:
            await stream.send_all(sent)
            await stream.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        await until(lambda: bool(waiting.refusals))
        await waiting.join(CODE)

    waiting = _run(test)
    assert sum(waiting.refusals[f"pairing_{reason}"] for reason in ("malformed", "broken")) == 1
    assert not waiting.left


def test_an_offer_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and nobody listens any more."""
    monkeypatch.setattr(pairing_offer, "OFFER_S", 0.1)

    async def test(waiting: Waiting) -> None:
        await until(lambda: bool(waiting.ended))
        assert await waiting.is_closed()
        with pytest.raises(UserError, match="is meshd pair waiting there"):
            await waiting.join(CODE)

    assert "nobody typed the code" in str(_run(test).ended[0])


def test_frames_leave_a_fixed_time_after_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the arithmetic takes, nobody sees it: neither who offers nor who joins answers
    sooner than that.
    """
    waits: list[float] = []
    sleep_until = trio.sleep_until

    async def noting(deadline: float) -> None:
        waits.append(round(deadline - trio.current_time(), 1))
        await sleep_until(deadline)

    monkeypatch.setattr(trio, "sleep_until", noting)
    monkeypatch.setattr(pairing_offer, "ANSWER_S", 1.0)
    monkeypatch.setattr(pairing_search, "ANSWER_S", 1.0)

    async def test(waiting: Waiting) -> None:
        await waiting.join(CODE)

    _run(test)
    assert len(waits) == 3
    assert all(0.0 < wait_s <= 1.0 for wait_s in waits)


def test_another_nameplate_is_not_shown_anything() -> None:
    """Nobody's tries are used up by who looks for another offer."""

    async def test(waiting: Waiting) -> None:
        with pytest.raises(UserError, match="the offer there has code 47"):
            await waiting.join(Code("48", CODE.secret))

    waiting = _run(test)
    assert not waiting.left
    assert not waiting.made


def test_a_home_that_may_not_join_uses_nothing_up() -> None:
    """It looks at the mesh that the offer is of, and says why not."""

    def refuse(mesh: MeshId) -> None:
        assert mesh == MESH
        raise UserError("give that up first with: meshd leave")

    async def test(waiting: Waiting) -> None:
        with pytest.raises(UserError, match="meshd leave"):
            await Search(CODE, refuse).at(waiting.address)

    waiting = _run(test)
    assert not waiting.made
    assert not waiting.left


def test_an_impostor_is_named() -> None:
    """What has the nameplate and not the code gets one proof, and is not believed."""

    async def serve(stream: trio.SocketStream) -> None:
        frames = FrameStream(stream)
        side = OfferSide(WRONG, MESH, Authorities().founder.node_id)
        await frames.send(side.hello)
        await frames.receive(128)
        await frames.send(pack((1, b"\0" * 32, b"\0" * 100)))

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
                nursery.start_soon(trio.serve_listeners, serve, [listener])
                address = Address("127.0.0.1", listener.socket.getsockname()[1])
                with pytest.raises(UserError, match="somebody on this network interferes"):
                    await Search(CODE, lambda mesh: None).at(address)
                nursery.cancel_scope.cancel()

    trio.run(main)
