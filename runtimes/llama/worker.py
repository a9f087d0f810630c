"""The one place that runs in the worker process: a pipe in, a pipe out, an engine between.

Started as `python -m runtimes.llama.worker PARENT_PID`. The main thread alone touches llama.cpp.
Between two decodes it looks at what has arrived, so a cancel waits for one decode at most.
"""

import sys
from collections.abc import Callable

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.embedder import Embedder
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.loading import load_engine
from runtimes.llama.engine.trial import Trial
from runtimes.llama.frames import (
    CODEC,
    CREDIT_TOKENS,
    Cancel,
    Cancelled,
    Credit,
    Embed,
    Embedded,
    Ended,
    Failed,
    Frame,
    Generate,
    Load,
    LoadFailed,
    Measure,
    Measured,
    Started,
    Tokens,
)
from runtimes.worker.beginning import begin
from runtimes.worker.pipe import EXIT_NONSENSE, Pipe


def main() -> None:
    """The worker's life: load, answer, and end with the daemon."""
    pipe, load = begin(CODEC, Load)
    try:
        engine, ready = load_engine(load, pipe)
    except RuntimeFailure as failure:
        pipe.send(LoadFailed(code=failure.code, message=failure.message))
        return
    pipe.send(ready)
    worker = Worker(engine, pipe)
    while True:
        worker.turn()


class Worker:
    """Feeds the engine with what arrives, and the pipe with what the engine makes."""

    def __init__(
        self,
        engine: Engine | Embedder,
        pipe: Pipe[Frame],
        begin_trial: Callable[[Engine], Trial] = Trial,
    ) -> None:
        self._engine = engine
        self._pipe = pipe
        self._begin_trial = begin_trial
        self._trial: Trial | None = None
        self._credits: dict[int, int] = {}
        """Tokens, or vectors, that each open request may still send."""

    def turn(self) -> None:
        """Take in what has arrived, waiting for it if nothing can be computed; do one step."""
        is_idle = self._trial is None and not any(self._credits.values())
        arrived = self._pipe.take(wait=is_idle)
        if self._trial is not None and not arrived:
            self._try_out(self._trial)
            return
        for frame in arrived:
            self._end_trial()
            self._handle(frame)
        allowed = {request: tokens for request, tokens in self._credits.items() if tokens > 0}
        if not allowed:
            return
        results = self._engine.step(allowed)
        for result in results:
            if isinstance(result, Tokens):
                self._credits[result.request] -= len(result.token_ids)
            elif isinstance(result, Embedded):
                self._credits[result.request] -= 1
            elif isinstance(result, Ended | Failed):
                del self._credits[result.request]
        self._pipe.send(*results)

    def _try_out(self, trial: Trial) -> None:
        measured = trial.step()
        if trial.is_over:
            self._pipe.send(measured or Measured())
            self._trial = None

    def _end_trial(self) -> None:
        """Whoever asks is not kept waiting, and real answers tell more."""
        if self._trial is not None:
            self._trial.give_up()
            self._trial = None

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Generate() | Embed():
                self._open(frame)
            case Credit(request=request, tokens=tokens):
                if request in self._credits:
                    self._credits[request] += tokens
            case Cancel(request=request):
                if self._engine.close(request):
                    del self._credits[request]
                    self._pipe.send(Cancelled(request=request))
            case Measure(stop=False):
                if isinstance(self._engine, Embedder):
                    self._pipe.send(Measured())
                elif not self._credits:
                    self._trial = self._begin_trial(self._engine)
            case Measure():
                pass  # whatever arrives has ended it
            case _:
                sys.exit(EXIT_NONSENSE)

    def _open(self, request: Generate | Embed) -> None:
        number = request.request
        try:
            if not self._engine.has_room:
                raise RuntimeFailure("queue_full", "the worker has no slot left")
            tokens, form = self._engine.open(request)
        except RuntimeFailure as failure:
            self._pipe.send(Failed(request=number, code=failure.code, message=failure.message))
            return
        self._credits[number] = CREDIT_TOKENS
        started = Started(
            request=number, prompt_token_ids=tokens, calls=form.calls, thoughts=form.thoughts
        )
        self._pipe.send(started)


if __name__ == "__main__":
    main()
