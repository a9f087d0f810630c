"""The one place that makes engines in this process and runs requests on them."""

import dataclasses
import os
import pathlib
from collections.abc import Collection

from runtimes.llama.engine.embedder import Embedder
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.model import open_model
from runtimes.llama.frames import CREDIT_TOKENS, Ended, Generate, Load, Prefilled, Tokens

CONTEXT_TOKENS = 2048
STEPS_MAX = 20_000
"""Only an engine that does not come to an end needs more."""


def make_engine(path: pathlib.Path, **changes: object) -> Engine:
    """An engine of 4 slots that takes no time, with changes to its `Load`."""
    load = make_load(path, **changes)
    return Engine(open_model(load, lambda _share: None), load, clock=lambda: 0.0)


def make_embedder(path: pathlib.Path, **changes: object) -> Embedder:
    """The same of a model that embeds or ranks, as long a context as it has."""
    load = make_load(path, context_tokens=None, **changes)
    return Embedder(open_model(load, lambda _share: None), load)


def make_load(path: pathlib.Path, **changes: object) -> Load:
    """What an engine is made from, with llama.cpp loaded."""
    # The whole package first: bindings.py would leave a bare one for the tests after this.
    import llama_cpp  # noqa: F401

    fields: dict[str, object] = {
        "path": os.fsencode(path),
        "context_tokens": CONTEXT_TOKENS,
        "cores": 1,
        "threads": 1,
        "gpu_layers": 0,
        "content_hash": None,
        "slots": 4,
        "kv_tokens": None,
        "reproducible": False,
        "flash_attention": None,
        "memory_bytes": 0,
    }
    return Load(**(fields | changes))  # type: ignore[arg-type]  # a test's shorthand


def generate(number: int, **changes: object) -> Generate:
    """A plain request for 20 tokens, with changes to it."""
    fields: dict[str, object] = {
        "request": number,
        "messages": None,
        "prompt": "Once upon a time",
        "max_tokens": 20,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "stop": (),
        "ignore_eos": True,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "bias_tokens": (),
        "bias_values": (),
        "grammar": None,
        "json_schema": None,
        "continued_ids": (),
        "logprobs": None,
        "tools": (),
        "must_call": False,
        "parallel_calls": True,
        "with_markers": False,
        "stop_token_ids": (),
    }
    return Generate(**(fields | changes))  # type: ignore[arg-type]  # a test's shorthand


@dataclasses.dataclass(slots=True)
class Outcome:
    """What an engine said of one request."""

    ids: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    prefilled: list[int] = dataclasses.field(default_factory=list)
    likely: list[Tokens] = dataclasses.field(default_factory=list)
    """The frames of its tokens, logprobs included."""
    ended: Ended | None = None


class Outcomes:
    """What an engine says, by request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.of: dict[int, Outcome] = {}

    def open(self, *requests: Generate) -> None:
        """Open requests."""
        for request in requests:
            self._engine.open(request)
            self.of[request.request] = Outcome()

    @property
    def running(self) -> list[int]:
        """Requests that have not ended."""
        return [number for number, outcome in self.of.items() if outcome.ended is None]

    def step(
        self, allowed: Collection[int] | None = None, tokens: int = CREDIT_TOKENS
    ) -> list[int]:
        """One step of all that run, or of `allowed`, each with so many tokens at most; for each
        token the request that got it.
        """
        got = []
        going_on = self.running if allowed is None else allowed
        for result in self._engine.step(dict.fromkeys(going_on, tokens)):
            outcome = self.of[result.request]
            match result:
                case Tokens():
                    outcome.ids += result.token_ids
                    outcome.text += result.text
                    outcome.likely.append(result)
                    got.append(result.request)
                case Prefilled():
                    outcome.prefilled.append(result.tokens)
                case Ended():
                    outcome.ended = result
        return got

    def finish(self, allowed: Collection[int] | None = None) -> None:
        """Step until all that run, or those in `allowed`, have ended."""
        for _ in range(STEPS_MAX):
            left = [number for number in self.running if allowed is None or number in allowed]
            if not left:
                return
            self.step(left)
        raise AssertionError("no end")


def run(engine: Engine, *requests: Generate) -> list[Outcome]:
    """Run requests at once, to their end."""
    outcomes = Outcomes(engine)
    outcomes.open(*requests)
    outcomes.finish()
    return [outcomes.of[request.request] for request in requests]
