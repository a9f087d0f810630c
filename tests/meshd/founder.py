"""The one place for a running mesh of one that tests join over real TLS."""

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshd.frames import FrameStream
from meshd.home import Home
from meshd.peers import Handler, Kind
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import node_seed
from meshd.trust.mesh import read_mesh
from meshd.trust.token import Token
from protocol.authority import Authority
from protocol.crypto import SodiumCrypto
from protocol.effects import AnswerStream
from protocol.events import StreamReceived
from protocol.identity import Address, NodeId
from protocol.records import Role
from tests.helpers.nodes import WALL_S, Mesh, seed_of
from tests.meshd.members import SECRET, TIMEOUT_S, Member

INVITE_SEED = seed_of("joining", "invite")


class Founder:
    """A mesh of one running member, to be joined over real TLS."""

    def __init__(self, folder: pathlib.Path, *, uses: int = 1, expires_in_s: int = 3600) -> None:
        self.mesh = Mesh(1).start_all()
        self.member = Member(folder, 0, {})
        self.invite = self.mesh.authorities.issue(
            INVITE_SEED, uses=uses, expires_at_s=WALL_S + expires_in_s
        )
        self.admitted: list[NodeId] = []

    async def __call__(self, peer: NodeId, frames: FrameStream) -> None:
        data = await frames.receive(10_000)
        assert data is not None
        self.admitted.append(peer)
        for effect in self.mesh[0].handle(StreamReceived(1, peer, data, WALL_S), self.mesh.now):
            if isinstance(effect, AnswerStream):
                await frames.send(effect.data)

    def token(self, *seeds: Address) -> Token:
        return Token(
            root=self.mesh.authorities.root,
            mesh_secret=SECRET,
            invite_seed=INVITE_SEED,
            invite=self.invite,
            seeds=seeds,
        )

    @asynccontextmanager
    async def serving(self, handler: Handler | None = None) -> AsyncIterator[Token]:
        async with self.member.serving({Kind.GOSSIP: handler or self}) as address:
            yield self.token(address)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            await test()

    trio.run(main)


def is_member(home: Home, root: bytes) -> bool:
    """Whether a node that starts on this home is admitted, by its own records alone."""
    mesh = read_mesh(home)
    if mesh is None or mesh.root != root:
        return False
    crypto = SodiumCrypto(node_seed(home))
    authority = Authority(crypto, root)
    for wire in mesh.records:
        authority.add(wire)
    ensure_certificates(home, mesh.mesh_secret, node_seed(home))
    make_contexts(home)
    return authority.role_of(crypto.node_id) is Role.WORKER
