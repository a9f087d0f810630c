"""The one place for a request's whole story: who is asked, in what order, and what comes back.

    candidates (view) -> choosing (protocol.policies) -> local runtime, or one peer over mutual TLS

Until the first token has come, the next candidate is tried when one cannot be reached, refuses for
reasons of its own, or breaks. After it the stream is what the app has seen: if it breaks then, the
request ends with `interrupted`. Every wait ends with the request's deadline, with the death of the
serving node, or with the app going away.
"""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

import structlog
import trio

from meshd.admitting import Admitting, NotAdmitted
from meshd.answer import Answer, RequestOptions
from meshd.asking import Asking, AttemptFailed, nonsense
from meshd.choosing import Choosing, Timing
from meshd.failures import RequestFailed
from meshd.payloads import (
    BadPayload,
    pack_request,
    unpack_chunk,
    unpack_finished,
    unpack_started,
)
from meshd.peers import Kind
from meshd.requesters import requester_of
from meshd.view import View
from protocol.exchange import Accept, Ask, Data, End
from protocol.identity import NodeId, key_text
from protocol.routing import Candidate, trusted
from runtimes.base import Finished, GenerateEvent, GenerateRequest, RuntimeFailure
from runtimes.limits import check_request

log = structlog.get_logger()

_FINAL_CODES: Final = ("bad_request", "context_too_long")
"""Refusals that every node would repeat: the request itself is at fault."""
_FULL_CODES: Final = ("queue_full", "wait_too_long")
_PEERS_CODES: Final = (*_FINAL_CODES, *_FULL_CODES, "unavailable", "crashed")
"""What a peer may say of itself; anything else counts as `unavailable`."""
_REASONS_MAX: Final = 8
"""Failed attempts that an error names."""


@dataclasses.dataclass(slots=True)
class Attempt:
    """A candidate that has produced the beginning of an answer."""

    node: NodeId
    first: list[GenerateEvent]
    """What has come already: up to the first token."""
    rest: AsyncIterator[GenerateEvent]
    asked_at: float
    first_at: float
    """When it was asked, and when its first token had come."""


class Forwarder:
    """Runs requests of this node's apps, wherever they run best."""

    def __init__(
        self,
        own: NodeId,
        view: View,
        admitting: Admitting,
        asking: Asking,
        choosing: Choosing,
    ) -> None:
        self._own = own
        self._view = view
        self._admitting = admitting
        self._asking = asking
        self._choosing = choosing

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
        if options.policy is not None and not options.policy.may_use(request.model):
            # Here, so that no dialect can forget it.
            raise RequestFailed(
                "model_forbidden", f"This API key is not for the model {request.model!r}."
            )
        async with AsyncExitStack() as stack:
            attempt = await self._first_that_works(stack, request, options, deadline)
            events = self._relay(attempt, request, deadline)
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
        for candidate in self._candidates(request, options):
            async with AsyncExitStack() as trial:
                try:
                    attempt = await self._attempt(trial, candidate.node, request, options, deadline)
                except AttemptFailed as failure:
                    self._note_failure(candidate.node, options, failure)
                    if failure.code in (*_FINAL_CODES, "timeout"):
                        raise RequestFailed(failure.code, failure.message) from failure
                    self._choosing.failed(candidate.node)
                    failures.append((candidate.node, failure))
                    continue
                stack.push_async_exit(trial.pop_all())
                return attempt
        raise self._nobody(failures)

    def _candidates(self, request: GenerateRequest, options: RequestOptions) -> list[Candidate]:
        """Who may be tried, best first. Raises RequestFailed when there is nobody."""
        model = request.model
        if not self._view.may_ask():
            raise RequestFailed("bad_request", "This node's role does not let it ask.")
        candidates = self._view.candidates(model, self._asking.running)
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
        if options.is_trusted_only:
            candidates = trusted(candidates)
            if not candidates:
                raise RequestFailed(
                    "no_trusted_node",
                    f"No trusted node offers the model {model!r}, and this request may only go to "
                    "one; a machine is trusted that joined by: meshd invite --trusted",
                )
        ranked = self._choosing.rank(candidates, request, options)
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
        is_full = any(failure.code in _FULL_CODES for _, failure in failures)
        code = "queue_full" if is_full else "unavailable"
        told = [f.retry_after_s for _, f in failures if f.retry_after_s is not None]
        return RequestFailed(
            code,
            f"No node could take the request ({tried}).",
            retry_after_s=min(told, default=1.0),
        )

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
        asked_at = trio.current_time()
        stack.enter_context(self._asking.counted(node))
        if node == self._own:
            source = self._run_here(request, options, deadline)
        else:
            budget_ms = max(1, int((deadline - trio.current_time()) * 1000))
            body, requester = pack_request(request), requester_of(options)
            source = self._run_there(node, Ask(options.request_id, budget_ms, body, requester))
        await stack.enter_async_context(aclosing(source))
        first: list[GenerateEvent] = []
        while len(first) < 2:  # Started, then a token or the end
            event = await self._asking.next(node, source, deadline)
            if event is None:
                raise AttemptFailed("unavailable", "it ended without an answer")
            first.append(event)
        return Attempt(node, first, source, asked_at, trio.current_time())

    async def _relay(
        self, attempt: Attempt, request: GenerateRequest, deadline: float
    ) -> AsyncGenerator[GenerateEvent, None]:
        """What the app gets. Raises RequestFailed."""
        for event in attempt.first:
            yield event
        if isinstance(event, Finished):
            self._learn(attempt, request, event)
        while True:
            try:
                following = await self._asking.next(attempt.node, attempt.rest, deadline)
            except AttemptFailed as failure:
                if isinstance(event, Finished):
                    return  # the answer is whole; what ends the stream now does not matter
                self._choosing.failed(attempt.node)
                raise self._broken_off(attempt.node, failure.code, failure.message) from failure
            if following is None:
                break
            if isinstance(following, Finished):
                self._learn(attempt, request, following)
            yield (event := following)
        if not isinstance(event, Finished):
            raise self._broken_off(attempt.node, "unavailable", "it ended without an end")

    def _learn(self, attempt: Attempt, request: GenerateRequest, finished: Finished) -> None:
        timing = Timing(
            prompt_tokens=finished.prompt_tokens,
            first_s=attempt.first_at - attempt.asked_at,
            output_tokens=finished.completion_tokens,
            rest_s=trio.current_time() - attempt.first_at,
        )
        self._choosing.answered(attempt.node, request, timing)

    def _broken_off(self, node: NodeId, code: str, reason: str) -> RequestFailed:
        message = f"The answer broke off on node {self._view.name(node)}: {reason}."
        final = code if code == "timeout" else "interrupted"
        return RequestFailed(final, message.replace("..", "."))

    async def _run_here(
        self, request: GenerateRequest, options: RequestOptions, deadline: float
    ) -> AsyncGenerator[GenerateEvent, None]:
        left_s = deadline - trio.current_time()
        events = self._admitting.generate(request, self._own, requester_of(options), left_s)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except NotAdmitted as failure:
            retry_after_s = failure.retry_after_ms / 1000
            raise AttemptFailed(
                failure.code, failure.message, retry_after_s=retry_after_s
            ) from failure
        except RuntimeFailure as failure:
            raise AttemptFailed(failure.code, failure.message) from failure

    async def _run_there(self, node: NodeId, ask: Ask) -> AsyncGenerator[GenerateEvent, None]:
        frames = self._asking.ask(node, Kind.REQUEST, ask, _PEERS_CODES)
        try:
            async with aclosing(frames):
                async for frame in frames:
                    yield _event(frame)
        except BadPayload as error:
            raise nonsense(error) from error


def _event(frame: Accept | Data | End) -> GenerateEvent:
    """Raises BadPayload."""
    match frame:
        case Accept(body):
            return unpack_started(body)
        case Data(body):
            return unpack_chunk(body)
        case End(body):
            return unpack_finished(body)
