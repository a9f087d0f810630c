"""The one place for what the gateway asks of the mesh, and what it gets back.

The gateway knows nothing of peers, views or gossip: it holds a `Mesh` and turns dialects of HTTP
into a `Request` and an `Answer` back into them.
"""

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from meshd.trust.api_keys import KeyPolicy
from meshd.waits import Waits
from runtimes.base import GenerateEvent, Request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What the client demands beside the generation itself."""

    request_id: str
    """Chosen by the gateway; lower-case hex, names the request in headers, logs and explain. Of
    several answers to one request the second has `-1` behind it, and so on."""
    ranking: str | None = None
    """From `x-meshd-policy`: how the nodes that could run it are put in order; None: as this node
    does."""
    node: str | None = None
    """From `x-meshd-node`: only this node, by name or id."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """From `x-meshd-label`: only nodes that have all of them."""
    tier_max: int | None = None
    """From `x-meshd-tier`: only nodes of this tier or a better one; 1 is the best."""
    any_quantization: bool = False
    """From `x-meshd-quantization: any`: an answer that broke off may go on with other weights of
    the same model."""
    policy: KeyPolicy | None = None
    """Of the API key that the request shows; None: it shows none, and may do everything. The mesh
    checks which models it is for."""
    is_trusted_only: bool = False
    """Only nodes whose invite was marked trusted: by `x-meshd-trusted`, or by the key."""
    user: str | None = None
    """Whom the app says it asks for; nodes are only told a hash of it."""
    is_batch: bool = False
    """From `x-meshd-class`: it can wait, others first."""
    may_hedge: bool = False
    """From `x-meshd-hedge`: when its first token is late, a second node is asked too."""
    is_impatient: bool = False
    """From `x-meshd-wait: 0`: it fails with `loading` where a model had to be loaded first."""
    deadline_s: float = 600.0
    """Seconds from now after which the request fails with `timeout`, whatever it is doing."""
    waits: Waits = dataclasses.field(default_factory=Waits, compare=False)
    """Tells what it waits for, until a node has accepted it."""


@dataclasses.dataclass(slots=True)
class Answer:
    """A request that some node has accepted: its prompt is rendered and its stream is open."""

    request_id: str
    node_name: str
    node_id: str
    """The serving node, text form."""
    events: AsyncIterator[GenerateEvent]
    """`Started`, then `Chunk`s (or `Vector`s), then `Finished`; or raises RequestFailed."""
    resumed: int = 0
    """Continuations so far."""


class Mesh(Protocol):
    """The daemon as the gateway sees it."""

    def is_ready(self) -> bool:
        """Whether sockets are bound and the node is a member."""
        ...

    def status(self) -> Mapping[str, Any]:
        """The object of `/mesh/v1/status`."""
        ...

    def nodes(self, *, include_all: bool = False) -> Sequence[Mapping[str, Any]]:
        """The rows of `/mesh/v1/nodes`; `include_all` keeps old dead and left members."""
        ...

    def models(self) -> Sequence[Mapping[str, Any]]:
        """One row per model name: `{"name", "hash", "runtime", "architecture", "parameters",
        "quantization", "size_bytes", "context_tokens", "tasks", "nodes": [node names], "loaded":
        [those of them that have it in memory], "ready_in_s": until one has it, about}`.
        """
        ...

    def jobs(self) -> Sequence[Mapping[str, Any]]:
        """The jobs that were submitted here, the newest first, without arguments and results."""
        ...

    def explain(self, request_id: str) -> Mapping[str, Any] | None:
        """Why a request went where it went (`story.py`); None for one that is not remembered."""
        ...

    def generate(
        self, request: Request, options: RequestOptions
    ) -> AbstractAsyncContextManager[Answer]:
        """Run a request somewhere; entering waits until a node has accepted it.

        Leaving cancels it everywhere. Raises RequestFailed on entry and from `Answer.events`.
        """
        ...
