"""The one place where tests make members of one mesh: homes, keys and TLS on loopback.

Keys and admissions are those of `tests.helpers.nodes.Mesh`, so that a member here and a machine
there with the same index are one.
"""

import pathlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from meshd.home import Home
from meshd.peers import Handler, Kind, Peers
from meshd.trust.certificates import ensure_certificates, make_contexts
from meshd.trust.keys import to_pem
from protocol.crypto import SodiumCrypto
from protocol.identity import Address, NodeId
from protocol.records import Role
from tests.helpers.nodes import seed_of

SECRET = seed_of("mesh secret")
TIMEOUT_S = 10.0
"""No test here takes a tenth of it."""


class Member:
    """A key with its certificates, and the streams from and to it."""

    def __init__(
        self,
        folder: pathlib.Path,
        index: int,
        roles: Mapping[NodeId, Role],
        *,
        secret: bytes = SECRET,
    ) -> None:
        """`roles`: who is admitted, as this member knows it; may change later."""
        self.index = index
        self.seed = seed_of("mesh", "node", index)
        self.crypto = SodiumCrypto(self.seed)
        self.home = Home(folder / f"home{index}")
        self.home.create()
        self.home.write(self.home.node_key, to_pem(self.seed), secret=True)
        ensure_certificates(self.home, secret, self.seed)
        self.peers = Peers(make_contexts(self.home), self.id, roles.get)

    @property
    def id(self) -> NodeId:
        """Its public key."""
        return self.crypto.node_id

    @asynccontextmanager
    async def serving(
        self, handlers: Mapping[Kind, Handler], port: int = 0
    ) -> AsyncIterator[Address]:
        """Takes streams while inside; gives where. `port` 0: a free one."""
        [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.peers.serve, [listener], handlers)
            yield Address("127.0.0.1", listener.socket.getsockname()[1])
            nursery.cancel_scope.cancel()


def workers(*indexes: int) -> dict[NodeId, Role]:
    """Roles under which these members are admitted."""
    keys = (SodiumCrypto(seed_of("mesh", "node", index)).node_id for index in indexes)
    return dict.fromkeys(keys, Role.WORKER)


async def until(condition: Callable[[], bool]) -> None:
    """Until other tasks have brought this about; the test's own time-out bounds it."""
    while not condition():  # noqa: ASYNC110  # the code under test has no Event for a test
        await trio.sleep(0.002)


async def admit(peer: NodeId) -> None:
    """For a node that knows already who is a member: everybody."""
    await trio.lowlevel.checkpoint()


async def at_once() -> None:
    """For a node that knows already what it missed."""
    await trio.lowlevel.checkpoint()
