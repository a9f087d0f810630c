"""The one place for the joiner's side of pairing: find the offer of a code, and get its token.

Only offers with the code's nameplate are spoken to, so that nobody else's tries are used up; and
no more than three of those, for each of them could test one guess at the code.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import trio

from meshd.discovery import LanUnavailable
from meshd.failures import UserError
from meshd.frames import FrameStream, StreamBroken
from meshd.pairing_lan import offers
from meshd.trust.pairing import (
    ANSWER_BYTES_MAX,
    HELLO_BYTES_MAX,
    TRIES_MAX,
    BadFrame,
    Code,
    Hello,
    Impostor,
    JoinerSide,
    WrongCode,
)
from meshd.trust.token import BadToken, decode_token
from protocol.identity import Address, MeshId

SEARCH_S: Final = 10.0
"""To find an offer; an exchange that has begun may then take longer."""
OTHERS_S: Final = 2.0
"""To find another offer with this nameplate, once one had another code."""
CONNECT_S: Final = 3.0
EXCHANGE_S: Final = 10.0
ANSWER_S: Final = 0.3
"""The proof leaves so long after the hello: see meshd/pairing_offer.py, rule 3."""

MayJoin = Callable[[MeshId], None]
"""Raises UserError for a mesh that this home could not join; nothing is used up then."""


class _Unanswered(Exception):
    """No offer was there, or it broke off before it was shown anything."""


class Search:
    """One attempt to get a token by a code."""

    def __init__(self, code: Code, may_join: MayJoin) -> None:
        self._code = code
        self._may_join = may_join
        self._shown = 0
        self._failure: UserError | None = None
        """Why the last offer that was shown a proof did not give a token."""

    async def at(self, address: Address) -> str:
        """The token of the offer there. Raises UserError."""
        try:
            token = await self._try([address])
        except _Unanswered as reason:
            raise UserError(
                f"no offer of code {self._code.nameplate} at {address} ({reason}); is meshd pair "
                "waiting there? It prints the addresses for --at"
            ) from None
        return self._settled(token)

    async def on_lan(self) -> str:
        """The token of the offer that mDNS finds. Raises UserError."""
        token: str | None = None
        reason = "nobody announces it"
        try:
            end = trio.current_time() + SEARCH_S
            with trio.CancelScope(deadline=end) as search:
                async with contextlib.aclosing(offers(self._code.nameplate)) as found:
                    async for addresses in found:
                        # A proof that was shown is worth its answer.
                        search.deadline = end + EXCHANGE_S
                        try:
                            token = await self._try(addresses)
                        except _Unanswered as failure:
                            reason = str(failure)
                        else:
                            end = min(end, trio.current_time() + OTHERS_S)
                        search.deadline = end
                        if token is not None or self._shown >= TRIES_MAX:
                            break
        except LanUnavailable as failure:
            reason = f"mDNS does not work here: {failure}"
        if token is None and self._failure is None:
            raise UserError(
                f"no offer of code {self._code.nameplate} was found within {SEARCH_S:.0f} s "
                f"({reason}); is meshd pair waiting on a machine of this network? If so, add "
                "--at HOST:PORT as it prints"
            )
        return self._settled(token)

    def _settled(self, token: str | None) -> str:
        if token is None:
            assert self._failure is not None
            raise self._failure
        return token

    async def _try(self, addresses: Sequence[Address]) -> str | None:
        """One offer's token; None when it has another code. Raises _Unanswered, UserError."""
        reason = "no address"
        for address in addresses:
            try:
                with trio.fail_after(CONNECT_S):
                    stream = await trio.open_tcp_stream(*address)
            except (OSError, UnicodeError, trio.TooSlowError) as error:
                reason = f"{address}: {_why(error)}"
                continue
            try:
                with trio.fail_after(EXCHANGE_S):
                    return await self._exchange(FrameStream(stream))
            except (_Unanswered, trio.TooSlowError) as error:
                reason = f"{address}: {error if isinstance(error, _Unanswered) else 'no answer'}"
            finally:
                await trio.aclose_forcefully(stream)
        raise _Unanswered(reason)

    async def _exchange(self, frames: FrameStream) -> str | None:
        hello = await self._hello(frames)
        since = trio.current_time()
        try:
            side = await trio.to_thread.run_sync(JoinerSide, self._code, hello)
        except BadFrame as error:
            raise _Unanswered("something else answers there") from error
        await trio.sleep_until(since + ANSWER_S)
        self._shown += 1
        try:
            await frames.send(side.proof)
            answer = await frames.receive(ANSWER_BYTES_MAX)
            if answer is None:
                raise StreamBroken("it closed")
            token = side.open(answer)
            if decode_token(token).mesh != hello.mesh:
                raise Impostor
        except WrongCode as wrong:
            left = f"{wrong.tries_left} tries are left" if wrong.tries_left else "the offer ended"
            self._failure = UserError(
                f"the code does not fit ({left}); compare it with what meshd pair shows"
                + ("" if wrong.tries_left else ", after running it again")
            )
        except (StreamBroken, BadFrame):
            self._failure = UserError(
                "the offer broke off; if meshd pair still waits, try again, else run it again"
            )
        except (Impostor, BadToken):
            self._failure = UserError(
                "what answered does not know the code: somebody on this network interferes. Run "
                "meshd pair again for a new code, or use meshd invite"
            )
        else:
            return token
        return None

    async def _hello(self, frames: FrameStream) -> Hello:
        """Raises _Unanswered: not the offer of this code. UserError: a mesh not to be joined."""
        try:
            frame = await frames.receive(HELLO_BYTES_MAX)
            hello = Hello(frame or b"")
        except (StreamBroken, BadFrame) as error:
            raise _Unanswered("no offer waits there, or it is busy") from error
        if hello.nameplate != self._code.nameplate:
            raise _Unanswered(f"the offer there has code {hello.nameplate}")
        self._may_join(hello.mesh)
        return hello


def _why(error: Exception) -> str:
    return "no answer" if isinstance(error, trio.TooSlowError) else str(error) or "unreachable"
