"""The one place for what the control socket may ask about pairing: an offer, while one waits."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from meshd import pairing_lan
from meshd.commands import invited
from meshd.control import Report, Streaming
from meshd.failures import UserError
from meshd.options import wrong_usage
from meshd.pairing_offer import OFFER_S, Offer
from meshd.sockets import NodeSockets, bind_pairing
from meshd.trust.pairing import make_code
from meshd.trust.token import Token
from protocol.identity import Address, NodeId, key_text
from protocol.records import Admission

if TYPE_CHECKING:
    from meshd.running import Running

log = structlog.get_logger()

OFFERS_MAX: Final = 4
"""Each has tries of its own; more would only help who guesses."""
INVITE_S: Final = 300
"""The invite behind a code is used within seconds."""
JOINED_S: Final = 60.0
"""For a machine that has the token to become a member; joining gives up after 15 s by itself."""
NAME_S: Final = 3.0
"""For a new member that is running to say its name."""
LOOK_S: Final = 0.2


class PairingCommands:
    """Handlers by name, for `serve_control`."""

    def __init__(
        self, running: "Running", sockets: NodeSockets, refusals: Counter[str], *, is_on_lan: bool
    ) -> None:
        """`refusals` counts who is turned away, by reason."""
        self._running = running
        self._sockets = sockets
        self._refusals = refusals
        self._is_on_lan = is_on_lan
        self._offers = 0

    def handlers(self) -> Mapping[str, Streaming]:
        """What may be asked."""
        longest_s = OFFER_S + JOINED_S + NAME_S + 10.0
        return {"pair": Streaming(self.pair, timeout_s=longest_s, ends_with_asker=True)}

    async def pair(self, arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        """Show a code, hand an invite to who types it, and say who joined: `{"node", "name"}`."""
        port = arguments.get("port")
        if port is not None and (type(port) is not int or not 0 <= port < 65_536):
            raise wrong_usage("the request's 'port' must be an int from 0 to 65535")
        whom = invited(arguments)
        await self._running.decisions.ready()
        if self._offers >= OFFERS_MAX:
            raise UserError(f"{OFFERS_MAX} offers wait already; end one of them with Ctrl-C")
        self._offers += 1
        try:
            token = await self._offer(port, whom, report)
            await report({"event": "code_accepted"})
            return await self._newcomer(token)
        finally:
            self._offers -= 1

    async def _offer(self, port: int | None, whom: dict[str, Any], report: Report) -> Token:
        async def on_wrong(left: int) -> None:
            await report({"event": "wrong_code", "tries_left": left})

        def count(reason: str) -> None:
            self._refusals[reason] += 1

        node = self._running.node
        code = make_code()
        offer = Offer(
            code,
            node.mesh,
            node.node_id,
            make_token=lambda: self._running.commands.make_token(
                expires_s=INVITE_S, uses=1, **whom
            ),
            on_wrong=on_wrong,
            count=count,
        )
        with bind_pairing(self._sockets.host, port) as listening:
            bound = listening.getsockname()[1]
            addresses = [Address(host, bound) for host, _ in self._running.own_addresses]
            log.info("pairing.offered", port=bound)
            async with trio.open_nursery() as nursery:
                if self._is_on_lan:
                    interfaces = ["127.0.0.1"] if self._sockets.is_loopback else None
                    nursery.start_soon(
                        pairing_lan.announce, code.nameplate, node.node_id, addresses, interfaces
                    )
                await report(
                    {
                        "event": "code",
                        "code": str(code),
                        "expires_s": int(OFFER_S),
                        "addresses": [str(address) for address in addresses],
                        "is_announced": self._is_on_lan,
                    }
                )
                token = await offer.run(listening)
                nursery.cancel_scope.cancel()
        return token

    async def _newcomer(self, token: Token) -> Mapping[str, Any]:
        """Who came by this invite, once it is a member. Raises UserError."""
        node: NodeId | None = None
        with trio.move_on_after(JOINED_S):
            while (node := self._admitted_by(token)) is None:  # noqa: ASYNC110  # records have
                await trio.sleep(LOOK_S)  # no event of their own, and this lasts seconds
        if node is None:
            raise UserError(
                f"the code was right, but nobody has joined within {JOINED_S:.0f} s; see what "
                "meshd join says there, then run meshd pair again"
            )
        members, alive = self._running.node.members, None
        with trio.move_on_after(NAME_S):
            while (alive := members.alive_record(node)) is None:  # noqa: ASYNC110  # as above
                await trio.sleep(LOOK_S)
        name = alive.name if alive is not None else None
        return {"event": "joined", "node": key_text(node), "name": name}

    def _admitted_by(self, token: Token) -> NodeId | None:
        for record in self._running.node.authority.records():
            if isinstance(record, Admission) and record.proof.invite_key == token.invite.key:
                return record.node
        return None
