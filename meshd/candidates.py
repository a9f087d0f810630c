"""The one place for who may run a request, and in which order they are asked.

members that offer the model (view) -> demanded node, trust -> choosing (protocol.policies)
"""

import dataclasses
from collections.abc import Container, Sequence
from typing import Final

from meshd.answer import RequestOptions
from meshd.asking import Asking
from meshd.choosing import Choosing
from meshd.failures import RequestFailed
from meshd.view import View
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.routing import Candidate
from runtimes.base import ModelCard, Request

_MODELS_NAMED: Final = 8
_NODES_NAMED: Final = 8
_BACK_S: Final = 5.0
"""Whose daemon is started again at once is back by then."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Who may be asked now, best first, and why others may not."""

    policy: str
    demand: Demand
    ranked: Sequence[Candidate]
    left_out: Sequence[tuple[NodeId, str]]


class Candidates:
    """Chooses for one node."""

    def __init__(self, view: View, asking: Asking, choosing: Choosing) -> None:
        self._view = view
        self._asking = asking
        self._choosing = choosing

    def check(self, request: Request, options: RequestOptions) -> None:
        """Raise RequestFailed when nobody may run it, whoever answers at present."""
        if not self._view.may_ask():
            raise RequestFailed("bad_request", "This node's role does not let it ask.")
        model = request.model
        offers = self._view.offering(model)
        if not offers and (lost := self._view.lost(model)):
            raise RequestFailed(
                "unavailable",
                f"The nodes that offer {model!r} are dead: {', '.join(lost[:_NODES_NAMED])}. "
                "It is there again when one of them is.",
                retry_after_s=_BACK_S,
            )
        if not offers:
            known = [str(row["name"]) for row in self._view.models()][:_MODELS_NAMED]
            hint = f"The mesh has: {', '.join(known)}." if known else "The mesh has no model now."
            raise RequestFailed("model_not_found", f"No node offers the model {model!r}. {hint}")
        nodes = [node for node, card in offers.items() if request.task in card.tasks]
        if not nodes:
            raise RequestFailed("bad_request", self._not_made_for(request))
        if options.node is not None:
            wanted = self._view.find(options.node)
            nodes = [node for node in nodes if node in wanted]
            if not nodes:
                raise RequestFailed(
                    "model_not_found", f"The node {options.node!r} does not offer {model!r}."
                )
        if options.is_trusted_only and not any(map(self._view.is_trusted, nodes)):
            raise RequestFailed(
                "no_trusted_node",
                f"No trusted node offers the model {model!r}, and this request may only go to "
                "one; a machine is trusted that joined by: meshd invite --trusted",
            )

    def rank(
        self,
        request: Request,
        options: RequestOptions,
        *,
        like: ModelCard | None,
        tried: Container[NodeId],
    ) -> Ranking:
        """Who may be asked now. `like`: whose answer is to be continued; only the very same
        weights, with no less context, will do.
        """
        able: list[NodeId] = []
        left_out: list[tuple[NodeId, str]] = []
        wanted = None if options.node is None else self._view.find(options.node)
        for node, card in self._view.offering(request.model).items():
            why = self._why_not(node, card, request, like)
            if wanted is not None and node not in wanted:
                why = "another node was demanded"
            elif options.is_trusted_only and not self._view.is_trusted(node):
                why = "it is not trusted"
            if why:
                left_out.append((node, why))
            elif node not in tried:
                able.append(node)
        asked = self._choosing.look_at(request, options)
        considered = self._choosing.considered(able, self._view.own, asked)
        candidates = self._view.candidates(considered, request.model, self._asking.running)
        return Ranking(
            policy=asked.policy,
            demand=asked.demand,
            ranked=self._choosing.rank(candidates, asked),
            left_out=left_out,
        )

    def _not_made_for(self, request: Request) -> str:
        """The one line for a model that does something else."""
        rows = self._view.models()
        able = [str(row["name"]) for row in rows if request.task in row["tasks"]]
        tasks = next((row["tasks"] for row in rows if row["name"] == request.model), ())
        does = f"is made to {' and '.join(tasks)}" if tasks else "does something else"
        others = ", ".join(able[:_MODELS_NAMED])
        hint = f"the mesh has for that: {others}" if able else "the mesh has no model for that now"
        return f"The model {request.model!r} {does} and cannot {request.task}; {hint}."

    def _why_not(
        self, node: NodeId, card: ModelCard, request: Request, like: ModelCard | None
    ) -> str:
        if not self._view.is_alive(node):
            return "it is under suspicion"
        if request.task not in card.tasks:
            return f"its model cannot {request.task}"
        if like is None:
            return ""
        if card.content_hash != like.content_hash:
            return "its model is another one of that name"
        if card.context_tokens < like.context_tokens:
            return "its context is too small"
        return ""
