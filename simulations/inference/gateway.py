"""The one place for a request's whole story, as `meshd/forwarding.py` has it.

    candidates (view) -> policy -> one after the other, until one gives a first token

Who cannot be reached, refuses, breaks, or is found dead before the first token is followed by the
next candidate of the same ranking. After the first token candidates are ranked anew, and the next
one prefills the prompt and what came out so far; without `may_continue` (upstreams) the request has
failed as `interrupted`. The daemon's watchdogs, its patience and hedging would have their place
here, too.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from protocol.admission import Reason
from protocol.effects import Effect, MembershipChanged
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.members import State
from protocol.messages import Load
from protocol.policies import Policy
from protocol.routing import Candidate
from protocol.speeds import Speed, Speeds
from simulations.host import Host
from simulations.inference.connections import CONNECT_NS, HANDSHAKE_NS, Connections
from simulations.inference.engine import Work
from simulations.inference.request import Request
from simulations.inference.server import UNAVAILABLE, Server
from simulations.inference.view import View
from simulations.world import World

COMPLETED: Final = "completed"
INTERRUPTED: Final = "interrupted"
TIMEOUT: Final = "timeout"
NO_MODEL: Final = "model_not_found"
FULL: Final = (Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG)
GATEWAY_GONE: Final = "gateway_gone"
"""The app's own node is not there: nobody can answer."""


@dataclasses.dataclass(slots=True, eq=False)
class Attempt:
    """One candidate is asked for one request."""

    request: Request
    server: Server
    host: Host
    """The server's."""
    life: int
    """Of the server's process, when it was asked."""
    work: Work
    first_ns: int = 0
    is_over: bool = False
    has_reached: bool = False
    """The server has read it."""
    has_first: bool = False
    """The gateway has its first token."""


class Gateway:
    """Runs the requests of one node's apps."""

    def __init__(
        self,
        world: World,
        host: Host,
        servers: Mapping[NodeId, tuple[Host, Server]],
        *,
        policy: Policy,
        make_view: Callable[[Speeds], View],
        rng: random.Random,
        deadline_ns: int,
        may_continue: bool,
        has_one_owner: bool,
        on_end: Callable[[Request], None],
    ) -> None:
        self._world = world
        self._host = host
        self._servers = servers
        self._policy = policy
        self._speeds = Speeds()
        self._usual_output = Demand().output_tokens
        """Tokens of an answer, as they have been: nobody knows before how long one becomes."""
        self._make_view = make_view
        self._rng = rng
        self._deadline_ns = deadline_ns
        self._may_continue = may_continue
        self._has_one_owner = has_one_owner
        self._on_end = on_end
        self._connections = Connections(world, host)
        self.view = make_view(self._speeds)
        self.views = [self.view]
        """Of every life."""
        self._counted: Counter[NodeId] = Counter()
        self._attempts: dict[Attempt, None] = {}
        self._ranked: dict[Request, list[Candidate]] = {}
        """Who is left to be tried, of each request in flight."""
        self._tried: dict[Request, dict[NodeId, None]] = {}
        """Who was tried, since something came of the request."""
        self._failures: dict[Request, list[str]] = {}

    # ---- its node ----

    def begin(self) -> None:
        """A new life: it knows nothing yet."""
        self.view = self._make_view(self._speeds)
        self.views.append(self.view)

    def end(self) -> None:
        """Its process is gone, and every request with it; the servers notice, unless its machine is
        gone, too.
        """
        for attempt in list(self._attempts):
            if self._host.is_silent:
                self._settle(attempt)
            else:
                self._close(attempt)
        for request in list(self._ranked):
            self._finish(request, GATEWAY_GONE)
        self._connections.clear()

    def note(self, effect: Effect) -> None:
        """What its node reports."""
        self.view.note(effect)
        if not isinstance(effect, MembershipChanged) or effect.state == effect.previous:
            return
        if State.DEAD in (effect.state, effect.previous) or State.LEFT in (
            effect.state,
            effect.previous,
        ):
            self._connections.forget(effect.node)
        if effect.state in (State.DEAD, State.LEFT):
            for attempt in list(self._attempts):
                if attempt.host.crypto.node_id == effect.node:
                    self._lose(attempt)

    def hear(self, node: NodeId, at_ns: int, load: Load, speed: Speed | None) -> None:
        """How a server was at a moment, where gossip is not to tell that."""
        self.view.hear(node, at_ns, load, speed)

    # ---- a request ----

    def accept(self, request: Request) -> None:
        """An app asks."""
        self._ranked[request] = []
        if self._host.node is None:
            self._finish(request, GATEWAY_GONE)
            return
        self._world.at(self._deadline_ns, lambda: self._time_out(request))
        self._world.hand(self._host, lambda: self._rank(request))

    def _rank(self, request: Request) -> None:
        if request not in self._ranked:
            return
        offering = self.view.offering()
        self._failures[request] = []
        self._tried[request] = {}
        if not offering:
            self._give_up(request, NO_MODEL)
            return
        self._rank_of(request, offering)
        self._try_next(request)

    def _rank_of(self, request: Request, nodes: Sequence[NodeId]) -> None:
        own = (self._host.crypto.node_id,)
        considered = self._policy.considered(nodes, own, self._rng)
        demand = Demand(request.prompt_tokens, self._usual_output)
        candidates = self.view.candidates(considered, self._counted)
        self._ranked[request] = self._policy.rank(candidates, demand, self._rng)

    def _try_next(self, request: Request) -> None:
        tried = self._tried[request]
        while self._ranked[request] or self._rank_others(request):
            node = self._ranked[request].pop(0).node
            tried[node] = None
            if self.view.is_present(node):
                self._try(request, node)
                return
            request.retries += 1
            self._failures[request].append(UNAVAILABLE)
        is_full = any(code in FULL for code in self._failures[request])
        self._give_up(request, Reason.QUEUE_FULL if is_full else UNAVAILABLE)

    def _rank_others(self, request: Request) -> bool:
        """Rank some that were not considered so far; False: there are none."""
        tried = self._tried[request]
        self._rank_of(request, [node for node in self.view.offering() if node not in tried])
        return bool(self._ranked[request])

    def _give_up(self, request: Request, outcome: str) -> None:
        """Nobody can run it, or go on with it."""
        self._finish(request, INTERRUPTED if request.kept_tokens else outcome)

    def _try(self, request: Request, node: NodeId) -> None:
        host, server = self._servers[node]
        work = Work(
            request.prompt_tokens + request.kept_tokens,
            request.output_tokens - request.kept_tokens,
            on_first=lambda: self._answer(attempt, self._on_first),
            on_done=lambda: self._end_there(attempt),
            on_refused=lambda reason: self._answer(
                attempt, lambda attempt: self._refused(attempt, reason)
            ),
            node=self._host.crypto.node_id,
            user=request.user,
            is_owner=self._has_one_owner or host is self._host,
            deadline_ns=request.arrived_ns + self._deadline_ns,
        )
        attempt = Attempt(request, server, host, host.life, work)
        self._attempts[attempt] = None
        self._counted[node] += 1
        if host is self._host:
            self._reach(attempt)
        elif self._connections.take(host):
            self._connections.send(
                self._host, host, lambda: self._reach(attempt), lambda: not attempt.is_over
            )
        else:
            self._dial(attempt)

    def _dial(self, attempt: Attempt) -> None:
        """A fresh connection: a host that is gone says nothing, one without the process refuses."""
        delay = self._connections.dial_ns(attempt.host)
        if delay is None:
            self._world.at(CONNECT_NS, lambda: self._lose(attempt))
            return

        def arrive() -> None:
            if attempt.host.node is not None:
                attempt.life = attempt.host.life
                self._world.hand(attempt.host, lambda: self._reach(attempt))
                self._world.at(HANDSHAKE_NS, lambda: self._give_up_silent(attempt))
            elif attempt.host.is_silent:
                self._world.at(CONNECT_NS, lambda: self._lose(attempt))
            else:
                self._lose(attempt)

        self._world.at(delay, arrive)

    def _give_up_silent(self, attempt: Attempt) -> None:
        if not attempt.has_reached:
            self._lose(attempt)

    # ---- at the server ----

    def _reach(self, attempt: Attempt) -> None:
        """The server reads the request."""
        if attempt.is_over:
            return
        if attempt.host.life != attempt.life or attempt.host.node is None:
            if not attempt.host.is_silent:
                self._answer(attempt, self._lose)  # a connection to an earlier life is reset
            return
        attempt.has_reached = True
        refusal = attempt.server.ask(attempt.work)
        if refusal:
            self._answer(attempt, lambda attempt: self._refused(attempt, refusal))

    def _answer(self, attempt: Attempt, read: Callable[[Attempt], None]) -> None:
        """A message back to the gateway."""
        if attempt.host is self._host:
            read(attempt)
            return
        self._connections.send(
            attempt.host, self._host, lambda: read(attempt), lambda: not attempt.is_over
        )

    def _end_there(self, attempt: Attempt) -> None:
        attempt.server.note_done(attempt.work)
        self._answer(attempt, self._on_done)

    def note_crash(self, host: Host) -> None:
        """A server's process ended while its machine lives on: its connections are reset."""
        for attempt in list(self._attempts):
            if attempt.host is host and attempt.has_reached:
                self._answer(attempt, self._lose)

    # ---- at the gateway ----

    def _on_first(self, attempt: Attempt) -> None:
        if attempt.is_over:
            return
        if not attempt.has_first:
            attempt.first_ns = self._world.now
        attempt.has_first = True
        if attempt.request.first_ns is None:
            attempt.request.first_ns = self._world.now

    def _on_done(self, attempt: Attempt) -> None:
        if attempt.is_over:
            return
        self._on_first(attempt)  # of a short answer it may still be on its way
        self._settle(attempt)
        self._learn(attempt)
        self._connections.give_back(attempt.host)
        attempt.request.server = attempt.host.index
        self._finish(attempt.request, COMPLETED)

    def _learn(self, attempt: Attempt) -> None:
        request, tokens = attempt.request, attempt.request.output_tokens
        self._usual_output += (tokens - self._usual_output) // 16
        self._speeds.note(
            attempt.host.crypto.node_id,
            "",
            prompt_tokens=request.prompt_tokens + request.kept_tokens,
            first_ns=attempt.work.first_ns - attempt.work.started_ns,
            output_tokens=tokens - request.kept_tokens,
            rest_ns=self._world.now - attempt.first_ns,
            waited_ns=self._world.now - attempt.first_ns,
        )

    def _refused(self, attempt: Attempt, code: str) -> None:
        if attempt.is_over:
            return
        self._settle(attempt)
        self._connections.give_back(attempt.host)
        attempt.request.refusals += 1
        self._failures[attempt.request].append(code)
        self._try_next(attempt.request)

    def _lose(self, attempt: Attempt) -> None:
        """The server cannot be reached, broke, or is gone."""
        if attempt.is_over:
            return
        request = attempt.request
        if attempt.has_first:
            request.kept_tokens += attempt.server.emitted(attempt.work)
        self._close(attempt)
        if not attempt.has_first:
            request.retries += 1
            self._failures[request].append(UNAVAILABLE)
            self._try_next(request)
        elif not self._may_continue:
            self._finish(request, INTERRUPTED)
        elif request.kept_tokens >= request.output_tokens:
            self._finish(request, COMPLETED)  # all came, only the end is missing
        else:
            request.continuations += 1
            self._rank(request)

    def _time_out(self, request: Request) -> None:
        if request not in self._ranked:
            return
        for attempt in list(self._attempts):
            if attempt.request is request:
                if attempt.has_first:
                    request.kept_tokens += attempt.server.emitted(attempt.work)
                self._close(attempt)
        self._finish(request, TIMEOUT)

    def _close(self, attempt: Attempt) -> None:
        """The exchange ends before its end: the server frees the slot when it notices."""
        self._settle(attempt)

        def cancel() -> None:
            if attempt.host.life == attempt.life:
                attempt.server.cancel(attempt.work)

        if attempt.host is self._host:
            cancel()
        elif attempt.has_reached:
            is_there = lambda: attempt.host.life == attempt.life  # noqa: E731  # as short as it is
            self._connections.send(self._host, attempt.host, cancel, is_there)

    def _settle(self, attempt: Attempt) -> None:
        attempt.is_over = True
        del self._attempts[attempt]
        self._counted[attempt.host.crypto.node_id] -= 1

    def _finish(self, request: Request, outcome: str) -> None:
        self._ranked.pop(request, None)
        self._failures.pop(request, None)
        self._tried.pop(request, None)
        request.outcome = outcome
        request.ended_ns = self._world.now
        self._on_end(request)
