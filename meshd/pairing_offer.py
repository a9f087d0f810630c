"""The one place for an offer that waits for its code: a listener of its own, for two minutes.

Rule 1: three wrong codes end it, one at a time: no two guesses are judged at once.
Rule 2: who says nothing has a few seconds, and is no try; only four are listened to at once.
Rule 3: every frame leaves a fixed time after its cause. The library's arithmetic takes longer for
        some codes than for others, and nobody shall be able to measure that.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from meshd.failures import UserError
from meshd.frames import FrameStream, StreamBroken
from meshd.trust.pairing import (
    PROOF_BYTES_MAX,
    TRIES_MAX,
    BadFrame,
    Code,
    Confirmed,
    OfferSide,
    WrongCode,
    refusal,
)
from meshd.trust.token import Token, encode_token
from protocol.identity import MeshId, NodeId

log = structlog.get_logger()

OFFER_S: Final = 120.0
CONNECTIONS_MAX: Final = 4
CONNECTION_S: Final = 5.0
"""For one joiner's whole exchange, of which the answers' delays are the most."""
ANSWER_S: Final = 0.3
"""Many times what the arithmetic takes."""


class Offer:
    """One code, and who may still try it."""

    def __init__(
        self,
        code: Code,
        mesh: MeshId,
        node: NodeId,
        *,
        make_token: Callable[[], Token],
        on_wrong: Callable[[int], Awaitable[None]],
        count: Callable[[str], None],
    ) -> None:
        """`make_token` is called once a joiner has shown that it knows the code; `on_wrong` with
        the number of tries that are left; `count` with the reason of each refusal.
        """
        self._code = code
        self._mesh = mesh
        self._node = node
        self._make_token = make_token
        self._on_wrong = on_wrong
        self._count = count
        self._connections = 0
        self._judging = trio.Lock()
        self._unanswered = 0
        """Proofs that came and whose answers have not left."""
        self._wrong = 0
        self._token: Token | None = None
        self._is_decided = trio.Event()
        """No further code is judged: one was right, or too many were wrong."""
        self._is_answered = trio.Event()

    async def run(self, listening: socket.socket) -> Token:
        """Wait for the code on this socket, which is closed at the end, whatever it is.

        Returns the token that was handed over. Raises UserError: too many wrong codes, too late.
        """
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            with trio.move_on_after(OFFER_S):
                await self._is_decided.wait()
            if self._is_decided.is_set():
                await self._is_answered.wait()
            nursery.cancel_scope.cancel()
        if self._token is not None:
            return self._token
        if self._wrong >= TRIES_MAX:
            raise UserError(
                f"the offer has ended: {TRIES_MAX} wrong codes were tried. For a new code run "
                "meshd pair again; if nobody mistyped, somebody on this network is guessing"
            )
        raise UserError(
            f"the offer has ended: nobody typed the code within {OFFER_S:.0f} s; for a new one run "
            "meshd pair again"
        )

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One joiner, to its end. Raises nothing but Cancelled and what `on_wrong` raises."""
        if self._connections >= CONNECTIONS_MAX:
            self._count("pairing_busy")
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            with trio.move_on_after(CONNECTION_S) as life:
                await self._converse(FrameStream(stream))
            if life.cancelled_caught:
                self._count("pairing_silent")
        except (StreamBroken, BadFrame) as failure:
            self._count("pairing_malformed" if isinstance(failure, BadFrame) else "pairing_broken")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _converse(self, frames: FrameStream) -> None:
        since = trio.current_time()
        side = await trio.to_thread.run_sync(OfferSide, self._code, self._mesh, self._node)
        await trio.sleep_until(since + ANSWER_S)
        await frames.send(side.hello)
        proof = await frames.receive(PROOF_BYTES_MAX)
        if proof is None:
            raise StreamBroken("it left")
        since = trio.current_time()
        self._unanswered += 1
        try:
            answer = await self._judge(side, proof)
            if answer is not None:
                await trio.sleep_until(since + ANSWER_S)
                await frames.send(answer)
        finally:
            self._unanswered -= 1
            if self._is_decided.is_set() and not self._unanswered:
                self._is_answered.set()

    async def _judge(self, side: OfferSide, proof: bytes) -> bytes | None:
        """The answer to a proof; None when it comes too late. Raises BadFrame."""
        async with self._judging:
            if self._is_decided.is_set():
                return None
            try:
                confirmed: Confirmed = await trio.to_thread.run_sync(side.check, proof)
            except WrongCode:
                return await self._refuse()
            self._token = self._make_token()
            self._is_decided.set()
            log.info("pairing.done")
            return confirmed.answer(encode_token(self._token))

    async def _refuse(self) -> bytes:
        self._wrong += 1
        self._count("pairing_wrong_code")
        left = TRIES_MAX - self._wrong
        log.warning("pairing.wrong_code", tries_left=left)
        if not left:
            self._is_decided.set()
        await self._on_wrong(left)
        return refusal(left)
