"""The one place for a request's whole story: who is asked, in what order, and what comes back.

    candidates (view) -> rank (protocol.routing) -> local runtime, or one peer over mutual TLS

Until the first token has come, the next candidate is tried when one cannot be reached, refuses for
reasons of its own, or breaks. After it the stream is what the app has seen: if it breaks then, the
request ends with `interrupted`. Every wait ends with the request's deadline, with the death of the
serving node, or with the app going away.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import structlog
import trio

from meshd.answer import Answer, RequestOptions
from meshd.failures import RequestFailed
from meshd.frames import FrameStream, StreamBroken
from meshd.local_models import LocalModels
from meshd.payloads import (
    BadPayload,
    pack_request,
    unpack_chunk,
    unpack_finished,
    unpack_started,
)
from meshd.peers import Kind, Peers, PeerUnreachable
from meshd.view import View
from protocol.errors import Refused
from protocol.exchange import (
    ANSWER_BYTES_MAX,
    Accept,
    Ask,
    Asker,
    Data,
    End,
    Fail,
    Refuse,
    encode_frame,
)
from protocol.identity import Address, NodeId, key_text
from protocol.routing import Candidate, rank
from runtimes.base import Finished, GenerateEvent, GenerateRequest, RuntimeFailure
from runtimes.limits import check_request

log = structlog.get_logger()

_FINAL_CODES: Final = ("bad_request", "context_too_long")
"""Refusals that every node would repeat: the request itself is at fault."""
_PEERS_CODES: Final = (*_FINAL_CODES, "queue_full", "unavailable", "crashed")
"""What a peer may say of itself; anything else counts as `unavailable`."""
_REASON_CHARS_MAX: Final = 200
_REASONS_MAX: Final = 8
"""Failed attempts that an error names."""


class AttemptFailed(Exception):
    """One candidate did not work out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclasses.dataclass(slots=True)
class Attempt:
    """A candidate that has produced the beginning of an answer."""

    node: NodeId
    first: list[GenerateEvent]
    """What has come already: up to the first token."""
    rest: AsyncIterator[GenerateEvent]


class Forwarder:
    """Runs requests of this node's apps, wherever they run best."""

    def __init__(
        self,
        own: NodeId,
        view: View,
        models: LocalModels,
        peers: Peers,
        addresses_of: Callable[[NodeId], tuple[Address, ...]],
        rng: random.Random,
    ) -> None:
        self._own = own
        self._view = view
        self._models = models
        self._peers = peers
        self._addresses_of = addresses_of
        self._rng = rng
        self._running: Counter[NodeId] = Counter()

    @asynccontextmanager
    async def generate(
        self, request: GenerateRequest, options: RequestOptions
    ) -> AsyncGenerator[Answer, None]:
        """See `meshd.answer.Mesh.generate`."""
        deadline = trio.current_time() + options.deadline_s
        try:
            check_request(request)  # here, so that it fails alike wherever it would have run
        except RuntimeFailure as failure:
            raise RequestFailed(failure.code, failure.message) from failure
        async with AsyncExitStack() as stack:
            attempt = await self._first_that_works(stack, request, options, deadline)
            events = self._relay(attempt, deadline)
            await stack.enter_async_context(aclosing(events))
            yield Answer(
                request_id=options.request_id,
                node_name=self._view.name(attempt.node),
                node_id=key_text(attempt.node),
                events=events,
            )

    async def _first_that_works(
        self,
        stack: AsyncExitStack,
        request: GenerateRequest,
        options: RequestOptions,
        deadline: float,
    ) -> Attempt:
        """Try candidates in order; the winner's clean-up is pushed on `stack`."""
        failures: list[tuple[NodeId, AttemptFailed]] = []
        for candidate in self._candidates(request.model, options):
            async with AsyncExitStack() as trial:
                try:
                    attempt = await self._attempt(trial, candidate.node, request, options, deadline)
                except AttemptFailed as failure:
                    self._note_failure(candidate.node, options, failure)
                    if failure.code in (*_FINAL_CODES, "timeout"):
                        raise RequestFailed(failure.code, failure.message) from failure
                    failures.append((candidate.node, failure))
                    continue
                stack.push_async_exit(trial.pop_all())
                return attempt
        raise self._nobody(failures)

    def _candidates(self, model: str, options: RequestOptions) -> list[Candidate]:
        """Who may be tried, best first. Raises RequestFailed when there is nobody."""
        if not self._view.may_ask():
            raise RequestFailed("bad_request", "This node's role does not let it ask.")
        candidates = self._view.candidates(model, self._running)
        if not candidates:
            known = [str(row["name"]) for row in self._view.models()][:8]
            hint = f"The mesh has: {', '.join(known)}." if known else "The mesh has no model now."
            raise RequestFailed("model_not_found", f"No node offers the model {model!r}. {hint}")
        if options.node is not None:
            wanted = self._view.find(options.node)
            candidates = [candidate for candidate in candidates if candidate.node in wanted]
            if not candidates:
                raise RequestFailed(
                    "model_not_found", f"The node {options.node!r} does not offer {model!r}."
                )
        ranked = rank(candidates, self._rng)
        if not ranked:
            raise RequestFailed(
                "unavailable",
                f"The nodes that offer {model!r} do not answer at present.",
                retry_after_s=2.0,
            )
        return ranked

    def _note_failure(self, node: NodeId, options: RequestOptions, failure: AttemptFailed) -> None:
        log.info(
            "request.attempt_failed",
            request=options.request_id,
            node=self._view.name(node),
            code=failure.code,
            reason=failure.message,
        )

    def _nobody(self, failures: list[tuple[NodeId, AttemptFailed]]) -> RequestFailed:
        named = [f"{self._view.name(node)}: {f.message}" for node, f in failures[:_REASONS_MAX]]
        if len(failures) > len(named):
            named.append(f"and {len(failures) - len(named)} more")
        tried = "; ".join(named)
        is_full = any(failure.code == "queue_full" for _, failure in failures)
        code = "queue_full" if is_full else "unavailable"
        return RequestFailed(code, f"No node could take the request ({tried}).", retry_after_s=1.0)

    # ---- one attempt ----

    async def _attempt(
        self,
        stack: AsyncExitStack,
        node: NodeId,
        request: GenerateRequest,
        options: RequestOptions,
        deadline: float,
    ) -> Attempt:
        """Ask one candidate and wait for its first token. Raises AttemptFailed."""
        self._running[node] += 1
        stack.callback(self._count_down, node)
        if node == self._own:
            source = self._run_here(request)
        else:
            budget_ms = max(1, int((deadline - trio.current_time()) * 1000))
            source = self._run_there(
                node, Ask(options.request_id, budget_ms, pack_request(request))
            )
        await stack.enter_async_context(aclosing(source))
        first: list[GenerateEvent] = []
        while len(first) < 2:  # Started, then a token or the end
            event = await self._next(node, source, deadline)
            if event is None:
                raise AttemptFailed("unavailable", "it ended without an answer")
            first.append(event)
        return Attempt(node, first, source)

    def _count_down(self, node: NodeId) -> None:
        self._running[node] -= 1
        if self._running[node] <= 0:
            del self._running[node]

    async def _next(
        self, node: NodeId, source: AsyncIterator[GenerateEvent], deadline: float
    ) -> GenerateEvent | None:
        """The next event, None at the end. Raises AttemptFailed, also when the node is gone."""
        with trio.CancelScope(deadline=deadline) as scope, self._view.when_gone(node, scope.cancel):
            return await anext(source, None)
        if trio.current_time() >= deadline:
            raise AttemptFailed("timeout", "The request's time is over.")
        raise AttemptFailed("unavailable", "it is gone")

    async def _relay(
        self, attempt: Attempt, deadline: float
    ) -> AsyncGenerator[GenerateEvent, None]:
        """What the app gets. Raises RequestFailed."""
        for early in attempt.first:
            yield early
        if isinstance(attempt.first[-1], Finished):
            return
        while True:
            try:
                event = await self._next(attempt.node, attempt.rest, deadline)
            except AttemptFailed as failure:
                name = self._view.name(attempt.node)
                code = failure.code if failure.code == "timeout" else "interrupted"
                message = f"The answer broke off on node {name}: {failure.message}."
                raise RequestFailed(code, message.replace("..", ".")) from failure
            if event is None:
                return
            yield event

    async def _run_here(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        runtime = self._models.find(request.model)
        if runtime is None:
            raise AttemptFailed("unavailable", "its model is not loaded")
        try:
            async with aclosing(runtime.generate(request)) as events:
                async for event in events:
                    yield event
        except RuntimeFailure as failure:
            raise AttemptFailed(failure.code, failure.message) from failure

    async def _run_there(self, node: NodeId, ask: Ask) -> AsyncGenerator[GenerateEvent, None]:
        try:
            async with self._peers.exchange(node, self._addresses_of(node), Kind.REQUEST) as frames:
                await frames.send(encode_frame(ask), 30.0)
                async with aclosing(self._events_from(frames)) as events:
                    async for event in events:
                        yield event
        except PeerUnreachable as error:
            raise AttemptFailed("unavailable", f"it cannot be reached ({error})") from error
        except StreamBroken as error:
            raise AttemptFailed("unavailable", f"its stream broke ({error})") from error
        except (BadPayload, Refused) as error:
            raise AttemptFailed("unavailable", f"it sent nonsense ({error})") from error

    async def _events_from(self, frames: FrameStream) -> AsyncGenerator[GenerateEvent, None]:
        asker = Asker()
        while not asker.is_over:
            data = await frames.receive(ANSWER_BYTES_MAX)
            if data is None:
                raise StreamBroken("closed in the middle")
            match asker.receive(data):
                case Accept(body):
                    yield unpack_started(body)
                case Data(body):
                    yield unpack_chunk(body)
                case End(body):
                    yield unpack_finished(body)
                case Refuse(code, message):
                    raise _refused(code, message)
                case Fail(code, message):
                    raise _refused(code, message)


def _refused(code: str, message: str) -> AttemptFailed:
    """What a peer said, made harmless: neither its code nor its words are to be believed."""
    reason = "".join(c if c.isprintable() else " " for c in message[:_REASON_CHARS_MAX])
    return AttemptFailed(code if code in _PEERS_CODES else "unavailable", reason)
