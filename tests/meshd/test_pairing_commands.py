"""`pair` on the control socket: what is refused before a code is shown, and who joined."""

import pathlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from meshd import pairing_commands
from meshd.commands import Commands
from meshd.failures import UserError
from meshd.home import Home
from meshd.pairing_commands import OFFERS_MAX, PairingCommands
from meshd.pairing_search import Search
from meshd.running import Running
from meshd.sockets import NodeSockets
from meshd.trust.decisions import Decisions
from meshd.trust.keys import to_pem
from meshd.trust.mesh import MeshFile, write_mesh
from meshd.trust.pairing import Code, read_code
from meshd.trust.token import decode_token
from protocol.crypto import SodiumCrypto
from protocol.events import Event
from protocol.identity import Address, key_text
from protocol.issuing import make_join_proof
from protocol.joining import JoinRefusal, admit
from tests.helpers.nodes import Mesh, seed_of
from tests.meshd.members import SECRET, until

TIMEOUT_S = 20.0


class Founder:
    """A founder's home and node, and what `pair` told."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.home = Home(folder / "home")
        self.home.create()
        self.mesh = Mesh(1).start_all()
        authorities = self.mesh.authorities
        self.home.write(self.home.root_key, to_pem(authorities.root_seed), secret=True)
        records = (authorities.invite.wire, authorities.founding.wire)
        write_mesh(
            self.home,
            MeshFile(root=authorities.root, mesh_secret=SECRET, records=records, acts=100),
        )
        running = SimpleNamespace(
            home=self.home,
            node=self.mesh[0],
            owner="founder",
            own_addresses=(Address("127.0.0.1", 7700),),
            gossip=SimpleNamespace(give=self._give),
            decisions=Decisions(
                self.home, self.mesh[0].authority, self._give, trio.lowlevel.checkpoint
            ),
            audit=SimpleNamespace(note=lambda kind, **fields: None),
        )
        running.commands = Commands(self.home, cast("Running", running))
        sockets = SimpleNamespace(host="127.0.0.1", is_loopback=True)
        self.refusals: Counter[str] = Counter()
        self.told: list[Mapping[str, Any]] = []
        self.pairing = PairingCommands(
            cast("Running", running), cast("NodeSockets", sockets), self.refusals, is_on_lan=False
        )

    def _give(self, event: Event) -> bool:
        self.mesh.give(0, event)
        return True

    async def _report(self, news: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(news)

    async def pair(self, **arguments: object) -> Mapping[str, Any]:
        return await self.pairing.pair({"port": 0, **arguments}, self._report)

    def shown(self) -> tuple[Code, Address]:
        """The last code, and where it waits."""
        code = read_code(self.told[-1]["code"])
        assert code is not None
        host, _, port = self.told[-1]["addresses"][0].rpartition(":")
        return code, Address(host, int(port))

    async def token(self) -> str:
        """What a joiner gets by the code."""
        await until(lambda: bool(self.told))
        code, address = self.shown()
        return await Search(code, lambda mesh: None).at(address)


@pytest.fixture
def founder(tmp_path: pathlib.Path) -> Founder:
    return Founder(tmp_path)


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)


def test_who_joined_is_who_used_this_very_invite(
    founder: Founder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the offer's options say; one that is not running yet has no name."""
    monkeypatch.setattr(pairing_commands, "NAME_S", 0.1)
    newcomer = SodiumCrypto(seed_of("newcomer"))

    async def test() -> None:
        async with trio.open_nursery() as nursery:

            async def join() -> None:
                token = decode_token(await founder.token())
                assert (token.invite.owner, token.invite.is_trusted) == ("Zoë", True)
                assert token.invite.uses == 1
                proof = make_join_proof(token.invite_seed, newcomer, token.mesh)
                authority = founder.mesh[0].authority
                admitted = admit(
                    authority,
                    founder.mesh.machines[0].crypto,
                    proof,
                    token.invite.expires_at_s - 1,
                )
                assert not isinstance(admitted, JoinRefusal)
                authority.add(admitted.wire)

            nursery.start_soon(join)
            joined = await founder.pair(owner="Zoë", trusted=True)
        assert joined == {"event": "joined", "node": key_text(newcomer.node_id), "name": None}

    _run(test)
    assert [news["event"] for news in founder.told] == ["code", "code_accepted"]
    assert founder.told[0]["is_announced"] is False
    assert founder.told[0]["expires_s"] == 120


def test_a_token_that_nobody_uses_is_said(
    founder: Founder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code was right, and the machine broke down before it joined."""
    monkeypatch.setattr(pairing_commands, "JOINED_S", 0.1)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(founder.token)
            with pytest.raises(UserError, match="nobody has joined"):
                await founder.pair()

    _run(test)


def test_offers_have_a_limit_and_come_free_again(founder: Founder) -> None:
    """Each one gives who guesses three more tries."""

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(OFFERS_MAX):
                nursery.start_soon(founder.pair)
            await until(lambda: len(founder.told) == OFFERS_MAX)
            assert len({news["code"] for news in founder.told}) == OFFERS_MAX
            with pytest.raises(UserError, match="offers wait already"):
                await founder.pair()
            nursery.cancel_scope.cancel()
        founder.told.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(founder.pair)
            await until(lambda: bool(founder.told))
            nursery.cancel_scope.cancel()

    _run(test)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": "7702"}, "'port' must be an int"),
        ({"port": 65_536}, "'port' must be an int"),
        ({"port": True}, "'port' must be an int"),
        ({"role": "king"}, "one of admin"),
        ({"owner": "\n"}, "printable"),
    ],
)
def test_what_cannot_be_is_refused_before_a_code_is_shown(
    founder: Founder, arguments: Mapping[str, object], said: str
) -> None:
    """Nothing listens, and no invite is made."""

    async def test() -> None:
        with pytest.raises(UserError, match=said):
            await founder.pair(**arguments)

    _run(test)
    assert not founder.told


def test_only_who_can_invite_shows_a_code(founder: Founder) -> None:
    """The other machine would be promised what cannot be kept."""
    founder.home.root_key.unlink()

    async def test() -> None:
        with pytest.raises(UserError, match="only admins may"):
            await founder.pair()

    _run(test)
    assert not founder.told
