"""The one place for who may run a request, and in which order they are asked.

members that offer the model (view) -> demanded node, trust -> choosing (protocol.policies)
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Final

from meshd.answer import RequestOptions
from meshd.asking import Asking
from meshd.begun_text import FOREIGN_RUNTIMES, goes_on_behind_text
from meshd.choosing import Asked, Choosing
from meshd.failures import RequestFailed
from meshd.prefixes import tokens_held
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
        lost = [] if offers else self._view.lost(model)
        coming = self.coming(request, options)
        if coming and not self.has_any(request, options):
            lost = lost or [self._view.name(node) for node in coming]
        if lost:
            raise RequestFailed(
                "unavailable",
                f"The nodes that offered {model!r} are dead or have just withdrawn it: "
                f"{', '.join(lost[:_NODES_NAMED])}. It is there again when one of them is.",
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

    def coming(self, request: Request, options: RequestOptions) -> list[NodeId]:
        """Who has just withdrawn the model, and could run it were it offered again."""
        wanted = None if options.node is None else self._view.find(options.node)
        return [
            node
            for node in self._view.withdrawing(request.model)
            if (wanted is None or node in wanted)
            and self._is_described(node, options)
            and (self._view.is_trusted(node) or not options.is_trusted_only)
        ]

    def has_any(
        self,
        request: Request,
        options: RequestOptions,
        *,
        too_long_for: Mapping[NodeId, int] = NOBODY,
    ) -> bool:
        """Whether anybody offers what may run it, be it under suspicion or not."""
        offering = self._offering(request, options, too_long_for=too_long_for)
        return any(not why for _, why in offering)

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
        for node, why in self._offering(request, options, like=like, too_long_for=too_long_for):
            if why or not self._view.is_alive(node):
                left_out.append((node, why or "it is under suspicion"))
            elif node not in tried:
                able.append(node)
        asked = self._choosing.look_at(request, options)
        held = self._held(able, asked)
        considered = self._choosing.considered(able, self._view.own, asked, held)
        candidates = self._view.candidates(considered, request.model, self._asking.running)
        for place, candidate in enumerate(candidates):
            card = self._view.card(candidate.node, request.model)
            may_be_too_long = card is not None and 0 < card.context_tokens <= asked.longest
            held_tokens = held.get(candidate.node, 0)
            if may_be_too_long or held_tokens:
                candidates[place] = dataclasses.replace(
                    candidate, may_be_too_long=may_be_too_long, held_tokens=held_tokens
                )
        return Ranking(
            policy=asked.policy,
            demand=asked.demand,
            ranked=self._choosing.rank(candidates, asked),
            left_out=left_out,
        )

    def _held(self, nodes: Sequence[NodeId], asked: Asked) -> dict[NodeId, int]:
        """In whose model how much of the prompt lies, in tokens."""
        if not asked.prefixes:
            return {}
        return {
            node: tokens
            for node, hashes in self._view.held(nodes, asked.model)
            if self._choosing.believes(node) and (tokens := tokens_held(asked.prefixes, hashes))
        }

    def _offering(
        self,
        request: Request,
        options: RequestOptions,
        *,
        like: ModelCard | None = None,
        too_long_for: Mapping[NodeId, int],
    ) -> Iterator[tuple[NodeId, str]]:
        """Who offers the model, each with why it will not do, were it ever so alive; empty if it
        will.
        """
        wanted = None if options.node is None else self._view.find(options.node)
        too_small = max(too_long_for.values(), default=0)
        for node, card in self._view.offering(request.model).items():
            if wanted is not None and node not in wanted:
                yield node, "another node was demanded"
            elif node in too_long_for or 0 < card.context_tokens <= too_small:
                yield node, "the prompt is too long for it"
            elif not self._is_described(node, options):
                yield node, f"it is not one with {_description(options)}"
            elif options.is_trusted_only and not self._view.is_trusted(node):
                yield node, "it is not trusted"
            else:
                yield node, _why_not(card, request, options, like)

    def _is_described(self, node: NodeId, options: RequestOptions) -> bool:
        """Whether it has the labels, and is of the tier, that are demanded."""
        has_labels = options.labels.items() <= self._view.labels(node).items()
        return has_labels and (
            options.tier_max is None or self._view.tier(node) <= options.tier_max
        )

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
    if like.runtime in FOREIGN_RUNTIMES:
        any_quantization = options.any_quantization
        if not goes_on_behind_text(card, like, request, any_quantization=any_quantization):
            return "its model cannot go on with that one's answer"
        if not card.context_tokens:
            return ""  # it does not tell
    elif card.content_hash != like.content_hash:
        if not options.any_quantization:
            return "its model is another one of that name"
        if not _is_same_but_quantized(card, like):
            return "its model is another one, not only another quantization"
    return "its context is too small" if card.context_tokens < like.context_tokens else ""


def _is_same_but_quantized(card: ModelCard, like: ModelCard) -> bool:
    """As far as cards tell; another vocabulary or template shows in the prompt's tokens."""
    same = (like.runtime, like.architecture, like.parameters)
    return (card.runtime, card.architecture, card.parameters) == same
