"""The one place for who may run a request, and in which order they are asked.

members that offer the model (view) -> demanded node, trust -> choosing (protocol.policies)
"""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Final

from meshd.answer import RequestOptions
from meshd.asking import Asking
from meshd.choosing import Choosing, longest_estimate
from meshd.failures import RequestFailed
from meshd.view import View
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.routing import Candidate
from runtimes.base import ModelCard, Request
from runtimes.embedding import SEE

NOBODY: Final[Mapping[NodeId, int]] = {}
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
        nodes = [node for node in nodes if self._is_described(node, options)]
        if not nodes:
            raise RequestFailed(
                "model_not_found",
                f"No node with {_description(options)} offers the model {model!r}; "
                "`meshd nodes --json` shows labels and tiers.",
            )
        if options.is_trusted_only and not any(map(self._view.is_trusted, nodes)):
            raise RequestFailed(
                "no_trusted_node",
                f"No trusted node offers the model {model!r}, and this request may only go to "
                "one; a machine is trusted that joined by: meshd invite --trusted",
            )

    def has_any(
        self,
        request: Request,
        options: RequestOptions,
        *,
        too_long_for: Mapping[NodeId, int] = NOBODY,
    ) -> bool:
        """Whether anybody offers what may run it, be it under suspicion or not."""
        wanted = None if options.node is None else self._view.find(options.node)
        return any(
            (wanted is None or node in wanted)
            and not _is_too_long(node, card, too_long_for)
            and not (self._why_not(node, options) or _why_not(card, request, options, None))
            for node, card in self._view.offering(request.model).items()
        )

    def rank(
        self,
        request: Request,
        options: RequestOptions,
        *,
        like: ModelCard | None = None,
        tried: Container[NodeId] = (),
        too_long_for: Mapping[NodeId, int] = NOBODY,
    ) -> Ranking:
        """Who may be asked now. `like`: whose answer is to be continued; only the very same
        weights, with no less context, will do (or others of the same model, if the request allows
        it). `too_long_for`: who has said that of its prompt, with the context that it has.
        """
        able: list[NodeId] = []
        left_out: list[tuple[NodeId, str]] = []
        wanted = None if options.node is None else self._view.find(options.node)
        offers = self._view.offering(request.model)
        for node, card in offers.items():
            if wanted is not None and node not in wanted:
                why = "another node was demanded"
            elif _is_too_long(node, card, too_long_for):
                why = "the prompt is too long for it"
            elif not self._view.is_alive(node):
                why = "it is under suspicion"
            else:
                why = self._why_not(node, options) or _why_not(card, request, options, like)
            if why:
                left_out.append((node, why))
            elif node not in tried:
                able.append(node)
        asked = self._choosing.look_at(request, options)
        considered = self._choosing.considered(able, self._view.own, asked)
        candidates = self._view.candidates(considered, request.model, self._asking.running)
        longest = longest_estimate(request)
        for place, candidate in enumerate(candidates):
            if 0 < offers[candidate.node].context_tokens <= longest:
                candidates[place] = dataclasses.replace(candidate, may_be_too_long=True)
        return Ranking(
            policy=asked.policy,
            demand=asked.demand,
            ranked=self._choosing.rank(candidates, asked),
            left_out=left_out,
        )

    def _is_described(self, node: NodeId, options: RequestOptions) -> bool:
        """Whether it has the labels, and is of the tier, that are demanded."""
        has_labels = options.labels.items() <= self._view.labels(node).items()
        return has_labels and (
            options.tier_max is None or self._view.tier(node) <= options.tier_max
        )

    def _why_not(self, node: NodeId, options: RequestOptions) -> str:
        if not self._is_described(node, options):
            return f"it is not one with {_description(options)}"
        if options.is_trusted_only and not self._view.is_trusted(node):
            return "it is not trusted"
        return ""

    def _not_made_for(self, request: Request) -> str:
        """The one line for a model that does something else."""
        rows = self._view.models()
        able = [str(row["name"]) for row in rows if request.task in row["tasks"]]
        tasks = next((row["tasks"] for row in rows if row["name"] == request.model), ())
        does = f"is made to {' and '.join(tasks)}" if tasks else "does something else"
        wanted = "see images" if request.task == SEE else request.task
        others = ", ".join(able[:_MODELS_NAMED])
        hint = f"the mesh has for that: {others}" if able else "the mesh has no model for that now"
        return f"The model {request.model!r} {does} and cannot {wanted}; {hint}."


def _is_too_long(node: NodeId, card: ModelCard, too_long_for: Mapping[NodeId, int]) -> bool:
    """Whether it has said so of the prompt, or another one that has no less context."""
    shortest = max(too_long_for.values(), default=0)
    return node in too_long_for or 0 < card.context_tokens <= shortest


def _description(options: RequestOptions) -> str:
    described = [f"{key}={value}" for key, value in options.labels.items()]
    if options.tier_max is not None:
        described.append(f"tier {options.tier_max} or better")
    return ", ".join(described)


def _why_not(
    card: ModelCard, request: Request, options: RequestOptions, like: ModelCard | None
) -> str:
    """Why this model will not do; empty if it will."""
    if request.task not in card.tasks:
        return f"its model cannot {request.task}"
    if like is None:
        return ""
    if card.content_hash != like.content_hash:
        if not options.any_quantization:
            return "its model is another one of that name"
        if not _is_same_but_quantized(card, like):
            return "its model is another one, not only another quantization"
    return "its context is too small" if card.context_tokens < like.context_tokens else ""


def _is_same_but_quantized(card: ModelCard, like: ModelCard) -> bool:
    """As far as cards tell; another vocabulary or template shows in the prompt's tokens."""
    same = (like.runtime, like.architecture, like.parameters)
    return (card.runtime, card.architecture, card.parameters) == same
