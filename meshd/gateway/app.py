"""The one place for the gateway's routes, and for what every request goes through."""

import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from meshd.failures import RequestFailed
from meshd.gateway.access import Access
from meshd.gateway.chat import ChatEndpoint
from meshd.gateway.completion import CompletionEndpoint
from meshd.gateway.connection import CLIENT
from meshd.gateway.embedding import EmbeddingsEndpoint, RerankEndpoint
from meshd.gateway.errors import Failure, Refusal, known_failure
from meshd.gateway.events import EventfulMesh, EventsEndpoint
from meshd.gateway.exchange import Exchange
from meshd.gateway.generating import Generating
from meshd.gateway.incoming import BodyBudget, Incoming
from meshd.gateway.keyring import Keyring
from meshd.gateway.limits import Limits
from meshd.gateway.openai import model_object
from meshd.gateway.places import Places

_log = logging.getLogger(__name__)

_PROBES = frozenset({"/healthz", "/readyz"})
_STOPPING = "This node is stopping; ask another one."

Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """A handler of ours as the ASGI application that a route leads to."""

    def __init__(self, handler: Handler, places: Places | None) -> None:
        """`places` None: always answered, however busy the gateway is."""
        self._handler = handler
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["meshd.exchange"]
        if self._places is None:
            await self._handler(exchange)
            return
        self._places.check()  # rather now than after a large body
        await exchange.incoming.read()
        with self._places.taken(scope["state"].get(CLIENT)):
            await self._handler(exchange)


class Gateway:
    """The ASGI application. One request is one call, in one nursery."""

    def __init__(
        self,
        mesh: EventfulMesh,
        *,
        limits: Limits | None = None,
        access: Access | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self._mesh = mesh
        self._limits = limits or Limits()
        self._access = access or Access()
        self._keyring = keyring or Keyring()
        self._places = Places(self._limits.requests_max)
        self._budget = BodyBudget(self._limits.bodies_bytes_max)
        self._created = int(time.time())
        self._active: set[trio.CancelScope] = set()
        self._events = EventsEndpoint(mesh, self._limits)
        self._router = Router(self._routes(), redirect_slashes=False, default=_unknown_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "connection.py lets nothing else through"
        headers = Headers(scope=scope)
        incoming = Incoming(receive, headers, limits=self._limits, budget=self._budget)
        exchange = Exchange(scope, headers, incoming, send, request_id=secrets.token_hex(8))
        try:
            async with trio.open_nursery() as nursery:
                left = functools.partial(exchange.client_left, nursery.cancel_scope)
                nursery.start_soon(incoming.watch, left)
                await self._answer(exchange)
                nursery.cancel_scope.cancel()
        finally:
            incoming.close()
            _log.debug(
                "gateway.request id=%s method=%s path=%r status=%s",
                exchange.request_id,
                scope["method"],
                exchange.path[:200],
                exchange.status,
            )

    def end_event_streams(self) -> None:
        """End what would not end by itself, and is whole wherever it ends."""
        self._events.end()

    def stop(self) -> None:
        """End every request in flight; their clients are told."""
        for work in self._active:
            work.cancel()

    async def _answer(self, exchange: Exchange) -> None:
        failure: Failure
        try:
            with trio.CancelScope() as work:
                await self._route(exchange, work)
            if not work.cancelled_caught:
                return
            failure = RequestFailed("unavailable", _STOPPING)
        except Exception as error:  # noqa: BLE001 - the seam: one request's errors end with it
            failure = known_failure(error) or self._unexpected(exchange)
        await exchange.fail(failure)

    def _unexpected(self, exchange: Exchange) -> Failure:
        _log.exception("gateway.request_failed id=%s", exchange.request_id)
        return RequestFailed(
            "internal", f"Internal error; this node's log has it as {exchange.request_id}."
        )

    async def _route(self, exchange: Exchange, work: trio.CancelScope) -> None:
        scope, headers = exchange.scope, exchange.headers
        self._active.add(work)
        # With "app" in the scope, routes raise for a wrong method instead of wording it themselves.
        scope.update({"app": self, "meshd.exchange": exchange})
        try:
            if not await self._is_preflight(exchange):
                if exchange.path not in _PROBES:
                    source = (scope.get("client") or (None,))[0]
                    exchange.policy = self._keyring.admit(headers, source)
                await self._router(scope, _receive_nothing, _send_nothing)
        except HTTPException as error:
            raise _wrong_method(exchange, error) from None
        finally:
            self._active.discard(work)

    async def _is_preflight(self, exchange: Exchange) -> bool:
        """Judge Host and Origin, and answer a browser that only asks what a page may do.

        Raises Refusal.
        """
        scope, headers, cors = exchange.scope, exchange.headers, self._access.cors
        origin = headers.get("origin")
        reached = (scope.get("server") or (None,))[0]
        self._access.guard.check(headers.get("host"), origin, reached)
        exchange.headers_for_pages = cors.headers(origin)
        answer = cors.preflight(scope["method"], headers)
        if answer is None:
            return False
        await exchange.reply_empty(answer)
        return True

    def _routes(self) -> Sequence[Route]:
        generating = Generating(self._mesh, self._limits, self._places)

        def route(path: str, handler: Handler, method: str = "GET") -> Route:
            places = None if path in _PROBES else self._places
            return Route(path, Endpoint(handler, places), methods=[method])

        return [
            route("/v1/models", self._models),
            route("/v1/models/{id:path}", self._model),
            route("/v1/chat/completions", ChatEndpoint(generating), "POST"),
            route("/v1/completions", CompletionEndpoint(generating), "POST"),
            route("/v1/embeddings", EmbeddingsEndpoint(self._mesh), "POST"),
            route("/v1/rerank", RerankEndpoint(self._mesh), "POST"),
            route("/mesh/v1/nodes", self._nodes),
            route("/mesh/v1/models", self._mesh_models),
            route("/mesh/v1/status", self._status),
            route("/mesh/v1/jobs", self._jobs),
            route("/mesh/v1/events", self._events),
            route("/mesh/v1/explain/{id}", self._explain),
            route("/healthz", self._health),
            route("/readyz", self._readiness),
        ]

    async def _models(self, exchange: Exchange) -> None:
        rows = [model_object(row, created=self._created) for row in self._models_for(exchange)]
        await exchange.reply_json({"object": "list", "data": rows})

    def _models_for(self, exchange: Exchange) -> list[Mapping[str, Any]]:
        """The models of the mesh that the request's key is for."""
        policy = exchange.policy
        rows = self._mesh.models()
        return [row for row in rows if policy is None or policy.may_use(row["name"])]

    async def _model(self, exchange: Exchange) -> None:
        name = exchange.path_param("id")
        for row in self._models_for(exchange):
            if row["name"] == name:
                await exchange.reply_json(model_object(row, created=self._created))
                return
        message = f"No node of the mesh offers the model '{name[:200]}'."
        raise RequestFailed("model_not_found", message)

    async def _nodes(self, exchange: Exchange) -> None:
        include_all = exchange.query.get("all", "0")
        if include_all not in {"0", "1", "false", "true"}:
            raise Refusal("bad_request", "Invalid 'all': must be 1 or 0.", param="all")
        rows = self._mesh.nodes(include_all=include_all in {"1", "true"})
        await exchange.reply_json({"nodes": list(rows)})

    async def _mesh_models(self, exchange: Exchange) -> None:
        await exchange.reply_json({"models": [dict(row) for row in self._models_for(exchange)]})

    async def _status(self, exchange: Exchange) -> None:
        await exchange.reply_json(dict(self._mesh.status()))

    async def _jobs(self, exchange: Exchange) -> None:
        await exchange.reply_json({"jobs": [dict(row) for row in self._mesh.jobs()]})

    async def _explain(self, exchange: Exchange) -> None:
        request_id, policy = exchange.path_param("id"), exchange.policy
        told = self._mesh.explain(request_id)
        if told is None or (policy is not None and not policy.may_use(told["model"])):
            raise Refusal(
                "not_found",
                f"This node remembers no request {request_id[:64]!r}; ask where it came.",
            )
        await exchange.reply_json(dict(told))

    async def _health(self, exchange: Exchange) -> None:
        await exchange.reply_json({"status": "ok"})

    async def _readiness(self, exchange: Exchange) -> None:
        ready = self._mesh.is_ready()
        content = {"status": "ready" if ready else "starting"}
        await exchange.reply_json(content, status=200 if ready else 503)


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    exchange: Exchange = scope["meshd.exchange"]
    message = f"There is nothing at {scope['method'][:16]} {exchange.path[:200]}."
    raise Refusal("not_found", message)


def _wrong_method(exchange: Exchange, error: HTTPException) -> Refusal:
    # The router itself raises nothing else.
    assert error.status_code == 405
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    message = f"{exchange.path[:200]} takes {allowed}, not {exchange.scope['method'][:16]}."
    return Refusal("method_not_allowed", message, headers=[("allow", allowed)])


async def _receive_nothing() -> dict[str, object]:
    raise AssertionError("endpoints read through their Exchange")


async def _send_nothing(message: object) -> None:
    raise AssertionError("endpoints answer through their Exchange")
