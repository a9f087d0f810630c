"""The one place where requests of this node's apps begin: checked, forwarded, remembered.

candidates.py -> forwarding.py: one after the other -> attempting.py: here, or one peer by TLS
                   continuing.py: what has come
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import trio

from meshd import clock
from meshd.admitting import Admitting
from meshd.answer import Answer, RequestOptions
from meshd.asking import Asking
from meshd.attempting import Attempting
from meshd.candidates import Candidates
from meshd.choosing import Choosing
from meshd.failures import RequestFailed
from meshd.forwarding import PATIENCE_S, Forwarding, Means
from meshd.story import Stories, Story
from meshd.view import View
from protocol.identity import NodeId
from runtimes.base import GenerateEvent, Request, RuntimeFailure, Started
from runtimes.limits import check_request

SETTLE_S: Final = 3.0
"""A request for what nobody offers waits at most this long for members that have just come."""
_LOOK_AGAIN_S: Final = 0.05


class Forwarder:
    """Runs requests of this node's apps, wherever they run best."""

    def __init__(
        self,
        own: NodeId,
        view: View,
        admitting: Admitting,
        asking: Asking,
        choosing: Choosing,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`patience_s`: how long an answer that broke off waits for who can go on with it."""
        self._view = view
        candidates = Candidates(view, asking, choosing)
        attempting = Attempting(own, admitting, asking)
        self._means = Means(view, candidates, choosing, attempting, patience_s)
        self.stories = Stories()

    @asynccontextmanager
    async def generate(
        self, request: Request, options: RequestOptions
    ) -> AsyncGenerator[Answer, None]:
        """See `meshd.answer.Mesh.generate`."""
        now = trio.current_time()
        story = Story(
            options.request_id,
            request.model,
            asked_at=now,
            wall_s=clock.wall_s(),
            name=self._view.name,
        )
        self.stories.add(story)
        try:
            _check(request, options)
            await self._find(request, options)
            forwarding = Forwarding(self._means, request, options, story, now + options.deadline_s)
            answer = forwarding.answer
            async with aclosing(forwarding.events()) as events:
                first = [await anext(events)]
                if isinstance(first[0], Started):
                    first.append(await anext(events))
                async with aclosing(_chained(first, events)) as whole:
                    answer.events = whole
                    yield answer
        except RequestFailed as failure:
            story.fail(trio.current_time(), failure.code, failure.message)
            raise
        finally:
            story.end(trio.current_time())

    async def _find(self, request: Request, options: RequestOptions) -> None:
        """Whoever may run it is known. What has just come back may still have to tell what it
        offers, and is given the time, so that no app hears of a model that there is none. Raises
        RequestFailed.
        """
        candidates = self._means.candidates
        until = trio.current_time() + min(SETTLE_S, options.deadline_s)
        while not candidates.has_any(request, options) and (
            candidates.coming(request, options) or not self._view.is_settled()
        ):
            if trio.current_time() >= until:
                break
            await trio.sleep(_LOOK_AGAIN_S)
        candidates.check(request, options)


def _check(request: Request, options: RequestOptions) -> None:
    """Whatever fails alike wherever it would run. Raises RequestFailed."""
    try:
        check_request(request)
    except RuntimeFailure as failure:
        raise RequestFailed(failure.code, failure.message) from failure
    if options.policy is not None and not options.policy.may_use(request.model):
        # Here, so that no dialect can forget it.
        raise RequestFailed(
            "model_forbidden", f"This API key is not for the model {request.model!r}."
        )


async def _chained(
    first: Sequence[GenerateEvent], rest: AsyncIterator[GenerateEvent]
) -> AsyncGenerator[GenerateEvent, None]:
    for event in first:
        yield event
    async for event in rest:
        yield event
