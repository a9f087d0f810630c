"""The one place where this node chooses who runs a request, and learns from how that went.

`protocol/policies.py` has the policies; this is what they are told: speeds as they were seen, who
failed lately, who has answered a conversation before, who has done how much for us.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from meshd.answer import RequestOptions
from meshd.prefixes import FOUND_AGAIN, Prefix, prefixes_of
from meshd.trust.api_keys import Priority
from protocol.error_rates import ErrorRates
from protocol.expectation import Demand
from protocol.identity import NodeId
from protocol.policies import DEFAULT, POLICIES, Policy
from protocol.routing import Candidate
from protocol.speeds import UNKNOWN, Speed, Speeds
from runtimes.base import Request
from runtimes.embedding import EmbedRequest
from runtimes.limits import IMAGE_TOKENS_MAX

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

FAILURES_MAX: Final = 4_096
CONVERSATIONS_MAX: Final = 4_096
SERVED_MAX: Final = 4_096
HOLDERS_MAX: Final = 8
"""Who hold a prompt's beginning, and are looked at among thousands."""
UNBELIEVED_S: Final = 60.0
"""So long what a node tells to lie in its models does not count, once it did not."""
FRESH_TOKENS_MIN: Final = 64
"""Of a prompt most of which was known, from which something is learned."""
BYTES_PER_TOKEN: Final = 4
"""Of English text, roughly; a gateway has no tokenizer."""
IMAGE_TOKENS: Final = 576
"""Of one image, roughly: LLaVA's; others have from 64 to some thousands."""
TEMPLATE_TOKENS_MAX: Final = 4_096
"""What a chat template adds to a prompt, where no token ids tell."""
_SERVED_HALVED_AT: Final = 10_000_000
"""Tokens of one node: what was long ago counts less and less."""
_USUAL_SMOOTHING: Final = 16
_PRIORITIES: Final[Mapping[Priority, int]] = {
    Priority.LOW: 0,
    Priority.NORMAL: 1,
    Priority.HIGH: 2,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How an answer came."""

    prompt_tokens: int
    cached_tokens: int = 0
    """Of these, known there before."""
    held_tokens: int = 0
    """Of these, told to lie there."""
    first_s: float
    """From its turn at a slot to the first token."""
    output_tokens: int
    rest_s: float
    """From the first token to the end."""
    waited_s: float
    """Of that, for the node; the others the app took its time to read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A request as those are ranked for it: worked out once, for its prompt may be long."""

    model: str
    policy: str
    demand: Demand
    longest: int
    """About how many tokens have to fit into a context at once: of texts, the longest's."""
    home: NodeId | None
    """Who knows most of its conversation."""
    prefixes: tuple[Prefix, ...]
    """The beginnings of its prompt."""


class Choosing:
    """One node's choices. Everything that it remembers is bounded; the oldest goes."""

    def __init__(
        self, rng: random.Random, now: Callable[[], float], default: str = DEFAULT
    ) -> None:
        """`now`: seconds of a clock that does not go back; `default`: the policy where a request
        names none.
        """
        self._rng = rng
        self._now = now
        self._default = default
        self._policies: dict[str, Policy] = {name: make() for name, make in POLICIES.items()}
        self._speeds = Speeds()
        self._errors = ErrorRates()
        self._failed: dict[NodeId, tuple[float, bool]] = {}
        self._unbelieved: dict[NodeId, float] = {}
        """Where a prompt did not lie that was told to, and when."""
        self._homes: dict[bytes, NodeId] = {}
        """Who has answered which conversation, by a hash of its messages so far."""
        self._served: dict[NodeId, int] = {}
        self._usual_output = Demand().output_tokens

    def look_at(self, request: Request, options: RequestOptions) -> Asked:
        """What there is to know of a request before it is given to anybody."""
        name = options.ranking or self._default
        demand = self.demand(request, options)
        longest = demand.prompt_tokens
        if isinstance(request, EmbedRequest):
            longest = _longest_text_estimate(request)
        home, prefixes = self._home(request), prefixes_of(request)
        return Asked(request.model, name, demand, longest, home, prefixes)

    def considered(
        self, nodes: Sequence[NodeId], own: NodeId, asked: Asked, held: Mapping[NodeId, int]
    ) -> Sequence[NodeId]:
        """Who of those that offer its model is ranked for a request: the nearest of all things,
        this node, the conversation's home and some who hold most of its beginning in any case.
        """
        holders = sorted(held, key=lambda node: (-held[node], self._rng.random()))[:HOLDERS_MAX]
        kept = [own, *holders] if asked.home is None else [own, asked.home, *holders]
        return self._policies[asked.policy].considered(nodes, kept, self._rng)

    def rank(self, candidates: Sequence[Candidate], asked: Asked) -> list[Candidate]:
        """Whom to try, best first."""
        now = self._now()
        known = [
            dataclasses.replace(
                candidate,
                speed=self._speeds.of(candidate.node, asked.model) or _told_speed(candidate),
                error_permille=self._errors.permille(candidate.node, asked.model, _ns(now)),
                failed_ago_ns=self._failed_ago_ns(candidate.node, now),
                is_unreached=self._failed.get(candidate.node, (0.0, False))[1],
                had_before=candidate.node == asked.home,
                served_tokens=self._served.get(candidate.node, 0),
            )
            for candidate in candidates
        ]
        return self._policies[asked.policy].rank(known, asked.demand, self._rng)

    def _home(self, request: Request) -> NodeId | None:
        """Who knows most of a request's prompt: all of it, or the turns before its last answer."""
        whole = self._homes.get(_conversation(request, len(request.messages or ())))
        return whole or self._homes.get(_conversation(request, _turns_before(request)))

    def speed(self, node: NodeId, model: str) -> Speed | None:
        """What was learned of a model on a node."""
        return self._speeds.of(node, model)

    def _failed_ago_ns(self, node: NodeId, now: float) -> int | None:
        failed = self._failed.get(node)
        return None if failed is None else _ns(now - failed[0])

    def demand(self, request: Request, options: RequestOptions) -> Demand:
        """What a request asks of whoever runs it, as far as can be known before."""
        output = self._usual_output
        if request.max_tokens is not None:
            output = min(output, request.max_tokens)
        priority = options.policy.priority if options.policy is not None else Priority.NORMAL
        return Demand(prompt_estimate(request), output, _PRIORITIES[priority])

    # ---- learning ----

    def refused(self, node: NodeId) -> None:
        """A request was sent there in vain: it has no room."""
        self._cool_down(node, is_unreached=False)

    def failed(self, node: NodeId, model: str, *, is_unreached: bool = False) -> None:
        """A request was sent there and broke; `is_unreached`: nothing was heard of the node."""
        self._errors.note(node, model, _ns(self._now()), has_failed=True)
        self._cool_down(node, is_unreached=is_unreached)

    def _cool_down(self, node: NodeId, *, is_unreached: bool) -> None:
        self._failed.pop(node, None)
        self._failed[node] = (self._now(), is_unreached)
        _forget_oldest(self._failed, FAILURES_MAX)

    def believes(self, node: NodeId) -> bool:
        """Whether what it tells to lie in its models counts."""
        since = self._unbelieved.get(node)
        return since is None or self._now() - since >= UNBELIEVED_S

    def _note_held(self, node: NodeId, timing: Timing) -> None:
        if timing.cached_tokens < timing.held_tokens // FOUND_AGAIN:
            self._unbelieved.pop(node, None)
            self._unbelieved[node] = self._now()
            _forget_oldest(self._unbelieved, FAILURES_MAX)

    def begun(self, node: NodeId, request: Request) -> None:
        """An answer has begun there: its prompt is known there now."""
        if request.messages is not None:
            key = _conversation(request, len(request.messages))
            self._homes.pop(key, None)
            self._homes[key] = node
            _forget_oldest(self._homes, CONVERSATIONS_MAX)

    def answered(self, node: NodeId, request: Request, timing: Timing) -> None:
        """A request was answered there, to its end."""
        self._failed.pop(node, None)
        self._note_held(node, timing)
        model, first_ns = request.model, _ns(timing.first_s)
        self._errors.note(node, model, _ns(self._now()), has_failed=False)
        if isinstance(request, EmbedRequest):
            self._speeds.note_texts(node, model, tokens=timing.prompt_tokens, all_ns=first_ns)
        else:
            fresh_tokens = timing.prompt_tokens - timing.cached_tokens
            if timing.cached_tokens and fresh_tokens < FRESH_TOKENS_MIN:
                fresh_tokens = FRESH_TOKENS_MIN  # as fast as it was: its answer tells nothing else
                first_ns = fresh_tokens * (self._speeds.of(node, model) or UNKNOWN).prefill_ns
            self._speeds.note(
                node,
                model,
                prompt_tokens=fresh_tokens,
                first_ns=first_ns,
                output_tokens=timing.output_tokens,
                rest_ns=_ns(timing.rest_s),
                waited_ns=_ns(timing.waited_s),
            )
            self._usual_output += (timing.output_tokens - self._usual_output) // _USUAL_SMOOTHING
        served = self._served.pop(node, 0) + timing.prompt_tokens + timing.output_tokens
        self._served[node] = served
        if served > _SERVED_HALVED_AT:
            self._served = {each: tokens // 2 for each, tokens in self._served.items()}
        _forget_oldest(self._served, SERVED_MAX)


def prompt_estimate(request: Request) -> int:
    """About how many tokens a request's prompt has, or the texts that it embeds."""
    return _text_estimate(request) + IMAGE_TOKENS * _image_count(request)


def prompt_tokens_max(request: Request) -> int:
    """More tokens than a prompt can have: no token is less than a byte, and no image has more than
    it may.
    """
    of_images = IMAGE_TOKENS_MAX * _image_count(request)
    return BYTES_PER_TOKEN * _text_estimate(request) + of_images + TEMPLATE_TOKENS_MAX


def _text_estimate(request: Request) -> int:
    if isinstance(request, EmbedRequest):
        size = sum(len(text.encode()) for text in request.texts)
        size += len((request.query or "").encode()) * len(request.texts)
        return size // BYTES_PER_TOKEN + sum(map(len, request.token_ids)) + 1
    size = len((request.prompt or "").encode())
    size += sum(len(text.encode()) for turn in request.messages or () for text in turn.texts())
    size += sum(len(tool.description + tool.parameters) for tool in request.tools)
    return size // BYTES_PER_TOKEN + 1


def _image_count(request: Request) -> int:
    return 0 if isinstance(request, EmbedRequest) else len(request.images)


def _longest_text_estimate(request: EmbedRequest) -> int:
    longest = max((len(text.encode()) for text in request.texts), default=0)
    size = longest + len((request.query or "").encode())
    return max(size // BYTES_PER_TOKEN + 1, max(map(len, request.token_ids), default=0))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _told_speed(candidate: Candidate) -> Speed | None:
    """What a node tells of its speed, unless it has more of our requests than slots and has not
    answered one: then what is usual has to do, or it would be asked for ever.
    """
    slots = candidate.load.slots if candidate.load is not None else 1
    return candidate.speed if candidate.own_requests <= max(1, slots) else None


def _turns_before(request: Request) -> int:
    """How many messages the request before this one had: all but its answer and what follows."""
    turns = request.messages or ()
    return next((at for at in reversed(range(len(turns))) if turns[at].role == "assistant"), 0)


def _conversation(request: Request, messages: int) -> bytes:
    """Names the first so many messages of a conversation with a model."""
    digest = hashlib.blake2b(request.model.encode(), digest_size=16)
    for message in (request.messages or ())[:messages]:
        for part in message.texts():
            data = part.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _forget_oldest(known: dict[_Key, _Value], most: int) -> None:
    if len(known) > most:
        del known[next(iter(known))]
