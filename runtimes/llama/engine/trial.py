"""The one place that measures how fast a model is before anybody has asked it anything.

In steps of one decode each, while nobody asks: first some tokens one after the other, then prompts
that grow as long as they are known to take no more than a second, the last of them again. What the
tokens say is no matter.
"""

import statistics
import time
from collections.abc import Callable, Generator
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.engine import Engine
from runtimes.llama.frames import Generate, Measured, Tokens

REQUEST: Final = -1
"""A number that the daemon gives to none."""
PROMPT: Final = "a"
TOKENS: Final = 16
"""Decoded one after the other ..."""
TOKENS_S: Final = 0.5
"""... unless that takes longer."""
PROMPTS: Final = (8, 32, 120, 120, 120)
"""Their tokens; short ones are slower for each, and so are those that something else disturbs: the
fastest counts.
"""
PROMPT_S: Final = 1.0
"""A prompt that would take longer is not tried."""

_Work = Generator[None, None, Measured | None]


class Trial:
    """Of one engine that has nothing to do."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: seconds from any start on."""
        self._engine = engine
        self._clock = clock
        self._work = self._measure()
        self.is_over = False

    def step(self) -> Measured | None:
        """One decode more; what was measured, when that is known. Raises EngineBroken."""
        try:
            next(self._work)
            return None
        except StopIteration as end:
            measured: Measured | None = end.value
        except RuntimeFailure:  # its vocabulary has no such prompt
            measured = None
        self.is_over = True
        return measured

    def give_up(self) -> None:
        """The engine is needed, and knows nothing of this."""
        self._work.close()
        self.is_over = True

    def _measure(self) -> _Work:
        """None where the model is too slow, or its context too short, to tell."""
        try:
            prompt, _ = self._engine.open(_request(()))
            room = self._engine.context_tokens - len(prompt) - 2
            self._decode()  # the first touches all weights
            yield
            taken: list[float] = []
            while len(taken) < min(TOKENS, room) and sum(taken) < TOKENS_S:
                taken.append(self._decode()[0])
                yield
            self._engine.close(REQUEST)
            if not taken:
                return None
            decode_s, prefill_s = statistics.median(taken), None
            for tokens in PROMPTS:
                if tokens > room or tokens * (prefill_s or decode_s) > PROMPT_S:
                    break
                self._engine.open(_request((prompt[-1],) * tokens))
                took_s, has_begun = 0.0, False
                while not has_begun:
                    step_s, has_begun = self._decode()
                    took_s += step_s
                    yield
                self._engine.close(REQUEST)
                each_s = took_s / (len(prompt) + tokens)
                prefill_s = each_s if prefill_s is None else min(prefill_s, each_s)
            return None if prefill_s is None else _measured(prefill_s, decode_s)
        finally:
            self._engine.close(REQUEST)

    def _decode(self) -> tuple[float, bool]:
        """How long it took, and whether a token came of it."""
        began = self._clock()
        results = self._engine.step({REQUEST: 1})
        return self._clock() - began, any(isinstance(result, Tokens) for result in results)


def _measured(prefill_s: float, decode_s: float) -> Measured:
    def ns(seconds: float) -> int:
        return max(1, int(seconds * 1e9))

    return Measured(prefill_ns=ns(prefill_s), decode_ns=ns(decode_s))


def _request(continued_ids: tuple[int, ...]) -> Generate:
    """A prompt and these tokens, and as many more as are waited for."""
    return Generate(
        request=REQUEST,
        messages=None,
        prompt=PROMPT,
        max_tokens=None,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=0,
        stop=(),
        ignore_eos=True,
        typical_p=1.0,
        repeat_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        bias_tokens=(),
        bias_values=(),
        grammar=None,
        json_schema=None,
        continued_ids=continued_ids,
        logprobs=None,
        tools=(),
        must_call=False,
        parallel_calls=True,
        with_markers=False,
        stop_token_ids=(),
    )
