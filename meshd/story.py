"""The one place for why requests went where they went: what `meshd explain` tells. Pure.

A story holds who could have run the request and what was expected of each, whom it was given to,
what came of that, and when. Never a prompt, never an answer.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from meshd.candidates import Ranking
from protocol.expectation import Expected, expected_of_all
from protocol.identity import NodeId, key_text
from protocol.routing import Candidate
from runtimes.base import Finished

STORIES_MAX: Final = 1_000
CANDIDATES_MAX: Final = 64
"""Of one ranking; the best ones."""
ATTEMPTS_MAX: Final = 64
"""Of one request; the last ones."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Try:
    """One candidate that was asked."""

    node: NodeId
    name: str
    asked_at: float
    tokens_before: int
    """Of the answer, from other nodes: more than 0 makes it a continuation."""
    started_at: float | None = None
    """When it had a slot and the prompt was rendered."""
    first_at: float | None = None
    """When its first token had come."""
    ended_at: float | None = None
    tokens: int = 0
    """Of its own."""
    code: str = ""
    """Why it failed, if it did; and in words:"""
    reason: str = ""


class Story:
    """What became of one request. Times are seconds of one clock."""

    def __init__(
        self,
        request_id: str,
        model: str,
        *,
        asked_at: float,
        wall_s: int,
        name: Callable[[NodeId], str],
    ) -> None:
        """`wall_s`: the same as Unix time; `name`: of a node, now."""
        self.request_id = request_id
        self.model = model
        self._asked_at = asked_at
        self._wall_s = wall_s
        self._name = name
        self._ranking: Ranking | None = None
        self._tries: list[Try] = []
        self._tried = 0
        self._finished: Finished | None = None
        self._error: Mapping[str, str] | None = None
        self._ended_at: float | None = None
        self.continuations = 0

    # ---- written by the forwarder ----

    def note_ranking(self, ranking: Ranking) -> None:
        """Candidates were ranked; the first time counts."""
        if self._ranking is None:
            ranked, left_out = ranking.ranked, ranking.left_out
            self._ranking = dataclasses.replace(
                ranking, ranked=ranked[:CANDIDATES_MAX], left_out=left_out[:CANDIDATES_MAX]
            )

    def begin_try(self, node: NodeId, now: float, tokens_before: int) -> Try:
        """A candidate is asked."""
        begun = Try(node=node, name=self._name(node), asked_at=now, tokens_before=tokens_before)
        self._tries.append(begun)
        self._tried += 1
        del self._tries[:-ATTEMPTS_MAX]
        return begun

    def done(self, finished: Finished) -> None:
        """The answer is whole."""
        self._finished = finished

    def fail(self, now: float, code: str, message: str) -> None:
        """There is no answer, or only a part of one."""
        self._error = {"code": code, "message": message}
        self.end(now)

    def end(self, now: float) -> None:
        """Nothing more comes of it; if nothing was said before, its app went away."""
        if self._ended_at is None:
            self._ended_at = now

    # ---- told to people ----

    def told(self, now: float) -> Mapping[str, Any]:
        """The object of `/mesh/v1/explain/{id}`."""
        end = now if self._ended_at is None else self._ended_at
        return {
            "request": self.request_id,
            "model": self.model,
            "time": self._wall_s,
            "state": self._state(),
            **self._told_ranking(),
            "attempts": [self._told_try(each) for each in self._tries],
            "attempts_forgotten": self._tried - len(self._tries),
            "continuations": self.continuations,
            "duration_s": round(end - self._asked_at, 4),
            "usage": dataclasses.asdict(self._finished) if self._finished else None,
            "error": self._error,
        }

    def _told_ranking(self) -> Mapping[str, Any]:
        ranking = self._ranking
        if ranking is None:
            return {"policy": None, "expected": None, "candidates": [], "left_out": []}
        estimates = expected_of_all(ranking.ranked, ranking.demand)
        return {
            "policy": ranking.policy,
            "expected": dataclasses.asdict(ranking.demand),
            "candidates": [
                self._told_candidate(candidate, estimate)
                for candidate, estimate in zip(ranking.ranked, estimates, strict=True)
            ],
            "left_out": [
                {"node": self._name(node), "id": key_text(node), "reason": why}
                for node, why in ranking.left_out
            ],
        }

    def _told_candidate(self, candidate: Candidate, estimate: Expected) -> Mapping[str, Any]:
        return {
            "node": self._name(candidate.node),
            "id": key_text(candidate.node),
            "total_ms": _ms(estimate.total_ns),
            "wait_ms": _ms(estimate.wait_ns),
            "load_ms": _ms(estimate.load_ns),
            "prefill_ms": _ms(estimate.prefill_ns),
            "decode_ms": _ms(estimate.decode_ns),
            "round_trip_ms": _ms(estimate.round_trip_ns),
            "retry_ms": _ms(estimate.retry_ns),
            "is_speed_known": candidate.speed is not None,
            "had_conversation": candidate.had_before,
            "held_tokens": candidate.held_tokens,
            "may_be_too_long": candidate.may_be_too_long,
            "failed_lately": candidate.failed_ago_ns is not None,
            "own_requests": candidate.own_requests,
            "load": dataclasses.asdict(candidate.load) if candidate.load else None,
        }

    def _state(self) -> str:
        if self._ended_at is None:
            return "running"
        if self._finished is not None:
            return "done"
        return "failed" if self._error is not None else "cancelled"

    def _told_try(self, each: Try) -> Mapping[str, Any]:
        def since(moment: float | None) -> float | None:
            return None if moment is None else round(moment - self._asked_at, 4)

        return {
            "node": each.name,
            "id": key_text(each.node),
            "is_continuation": each.tokens_before > 0,
            "tokens_before": each.tokens_before,
            "tokens": each.tokens,
            "asked_s": since(each.asked_at),
            "started_s": since(each.started_at),
            "first_token_s": since(each.first_at),
            "ended_s": since(each.ended_at),
            "failure": {"code": each.code, "reason": each.reason} if each.code else None,
        }


class Stories:
    """The last thousand of them."""

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}

    def add(self, story: Story) -> None:
        """A request begins; the oldest one is forgotten."""
        self._stories.pop(story.request_id, None)
        self._stories[story.request_id] = story
        if len(self._stories) > STORIES_MAX:
            del self._stories[next(iter(self._stories))]

    def find(self, request_id: str) -> Story | None:
        """By the id in `x-meshd-request`."""
        return self._stories.get(request_id)


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
