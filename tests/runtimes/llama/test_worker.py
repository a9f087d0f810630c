"""The worker's loop between a pipe and an engine, with both played by the test."""

import collections
from collections.abc import Collection, Sequence
from typing import cast

import pytest

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.engine import Engine
from runtimes.llama.engine.trial import Trial
from runtimes.llama.frames import (
    CREDIT_TOKENS,
    Cancel,
    Cancelled,
    Credit,
    Ended,
    Failed,
    Frame,
    Generate,
    Loading,
    Measure,
    Measured,
    Started,
    Tokens,
)
from runtimes.llama.worker import Worker
from runtimes.reply_form import ReplyForm
from runtimes.worker.pipe import Pipe
from tests.runtimes.llama.engines import generate


class Stuck(Exception):
    """The worker waits for a frame, and there is none."""


class FakePipe:
    """Hands over prepared frames and remembers what was sent."""

    def __init__(self) -> None:
        self.arriving: collections.deque[Frame] = collections.deque()
        self.sent: list[Frame] = []

    def take(self, *, wait: bool) -> list[Frame]:
        """As `Pipe.take`, but nobody can be waited for."""
        if wait and not self.arriving:
            raise Stuck
        frames = list(self.arriving)
        self.arriving.clear()
        return frames

    def send(self, *frames: Frame) -> None:
        """As `Pipe.send`."""
        self.sent += frames


class FakeEngine:
    """Gives each open request one token a step, without end."""

    def __init__(self, room: int) -> None:
        self.open_requests: list[int] = []
        self.room = room
        self.ends_at: int | None = None
        self.steps = 0

    @property
    def has_room(self) -> bool:
        """As `Engine.has_room`."""
        return len(self.open_requests) < self.room

    def open(self, request: Generate) -> tuple[tuple[int, ...], ReplyForm]:
        """As `Engine.open`; the prompt `bad` is refused."""
        if request.prompt == "bad":
            raise RuntimeFailure("bad_request", "no")
        self.open_requests.append(request.request)
        return (1, 2, 3), ReplyForm("hermes", "may")

    def close(self, request: int) -> bool:
        """As `Engine.close`."""
        if request not in self.open_requests:
            return False
        self.open_requests.remove(request)
        return True

    def step(self, allowed: Collection[int]) -> list[Frame]:
        """As `Engine.step`."""
        self.steps += 1
        results: list[Frame] = [
            Tokens(request=request, token_ids=(self.steps,), text="x") for request in allowed
        ]
        if self.steps == self.ends_at:
            for request in allowed:
                self.close(request)
                results.append(
                    Ended(
                        request=request,
                        finish_reason="stop",
                        prompt_tokens=3,
                        completion_tokens=self.steps,
                        cached_tokens=0,
                    )
                )
        return results


def play(
    frames: Sequence[Frame], *, room: int = 1, ends_at: int | None = None
) -> tuple[Worker, FakePipe, FakeEngine]:
    """Give the worker `frames` and let it run until it waits for more."""
    pipe, engine = FakePipe(), FakeEngine(room)
    engine.ends_at = ends_at
    worker = Worker(cast("Engine", engine), cast("Pipe[Frame]", pipe))
    run(worker, pipe, frames)
    return worker, pipe, engine


def run(worker: Worker, pipe: FakePipe, frames: Sequence[Frame]) -> None:
    """Go on with `frames` until the worker waits again."""
    pipe.arriving.extend(frames)

    def go() -> None:
        while True:
            worker.turn()

    with pytest.raises(Stuck):
        go()


def tokens_of(pipe: FakePipe, number: int) -> int:
    """How many tokens were sent for a request."""
    return sum(
        len(frame.token_ids)
        for frame in pipe.sent
        if isinstance(frame, Tokens) and frame.request == number
    )


def test_a_worker_stops_where_its_credit_ends_and_goes_on_with_more() -> None:
    """Without a consumer it computes CREDIT_TOKENS and not one more; credit is exact."""
    worker, pipe, engine = play([generate(1)])
    assert tokens_of(pipe, 1) == engine.steps == CREDIT_TOKENS
    run(worker, pipe, [Credit(request=1, tokens=10)])
    assert tokens_of(pipe, 1) == CREDIT_TOKENS + 10


def test_a_slow_consumer_does_not_hold_up_another() -> None:
    """Two open requests: the one without credit rests, the other goes on."""
    worker, pipe, _ = play([generate(1), generate(2)], room=2)
    run(worker, pipe, [Credit(request=2, tokens=30)])
    assert (tokens_of(pipe, 1), tokens_of(pipe, 2)) == (CREDIT_TOKENS, CREDIT_TOKENS + 30)


def test_a_cancel_is_confirmed_and_frees_the_slot() -> None:
    """Cancelled comes, nothing of the request after it, and the next one runs."""
    worker, pipe, engine = play([generate(1)])
    run(worker, pipe, [Cancel(request=1), Credit(request=1, tokens=5), generate(2)])
    assert Cancelled(request=1) in pipe.sent
    assert engine.open_requests == [2]
    after = pipe.sent[pipe.sent.index(Cancelled(request=1)) + 1 :]
    assert not any(isinstance(frame, Tokens) and frame.request == 1 for frame in after)


def test_a_cancel_that_comes_too_late_is_not_answered() -> None:
    """The last frame of an ended request was its end."""
    worker, pipe, _ = play([generate(1)], ends_at=3)
    sent = len(pipe.sent)
    run(worker, pipe, [Cancel(request=1), Credit(request=1, tokens=5), Cancel(request=99)])
    assert len(pipe.sent) == sent
    assert isinstance(pipe.sent[-1], Ended)


def test_a_request_that_cannot_be_opened_fails_alone() -> None:
    """A refusal and a full engine are Failed with their codes; the rest goes on."""
    _, pipe, engine = play([generate(1, prompt="bad"), generate(2), generate(3)])
    failed = [(frame.request, frame.code) for frame in pipe.sent if isinstance(frame, Failed)]
    assert failed == [(1, "bad_request"), (3, "queue_full")]
    assert [frame.request for frame in pipe.sent if isinstance(frame, Started)] == [2]
    assert engine.open_requests == [2]


def test_a_frame_that_is_not_for_workers_ends_it() -> None:
    """A daemon that speaks like a worker is no daemon."""
    pipe = FakePipe()
    pipe.arriving.append(Loading(progress=0.5))
    with pytest.raises(SystemExit):
        Worker(cast("Engine", FakeEngine(1)), cast("Pipe[Frame]", pipe)).turn()


class FakeTrial:
    """Measures in its third step."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_over = False
        self.was_given_up = False
        self.measured: Measured | None = Measured(prefill_ns=5, decode_ns=6)

    def step(self) -> Measured | None:
        """As `Trial.step`."""
        self.steps += 1
        self.is_over = self.steps == 3
        return self.measured if self.is_over else None

    def give_up(self) -> None:
        """As `Trial.give_up`."""
        self.was_given_up = self.is_over = True


def on_trial(pipe: FakePipe, trial: FakeTrial) -> Worker:
    """A worker that makes this trial when it is told to."""
    engine = cast("Engine", FakeEngine(1))
    return Worker(engine, cast("Pipe[Frame]", pipe), lambda engine: cast("Trial", trial))


def test_a_worker_tries_itself_out_when_it_is_told_to() -> None:
    """Not before, as others may load or measure then; it tells what came of it, and waits."""
    pipe, trial = FakePipe(), FakeTrial()
    worker = on_trial(pipe, trial)
    with pytest.raises(Stuck):
        worker.turn()
    pipe.arriving.append(Measure())
    for _ in range(4):
        worker.turn()
    assert pipe.sent == [Measured(prefill_ns=5, decode_ns=6)]
    with pytest.raises(Stuck):
        worker.turn()
    assert (trial.steps, trial.was_given_up) == (3, False)


def test_a_trial_is_stopped_and_none_begins_beside_a_request() -> None:
    """Nothing is told of either."""
    pipe, trial = FakePipe(), FakeTrial()
    worker = on_trial(pipe, trial)
    pipe.arriving.append(Measure())
    worker.turn()
    worker.turn()
    pipe.arriving.append(Measure(stop=True))
    worker.turn()
    assert (trial.steps, trial.was_given_up) == (1, True)
    pipe.arriving += [generate(1), Measure()]
    worker.turn()
    worker.turn()
    assert trial.steps == 1
    assert {type(frame) for frame in pipe.sent} == {Started, Tokens}


def test_a_trial_that_tells_nothing_is_over_all_the_same() -> None:
    """Who waits for it hears so."""
    pipe, trial = FakePipe(), FakeTrial()
    trial.measured = None
    worker = on_trial(pipe, trial)
    pipe.arriving.append(Measure())
    for _ in range(4):
        worker.turn()
    assert pipe.sent == [Measured(prefill_ns=0, decode_ns=0)]


def test_who_asks_ends_the_trial() -> None:
    """The request is opened in the same turn, and nothing is told any more."""
    pipe, trial = FakePipe(), FakeTrial()
    worker = on_trial(pipe, trial)
    pipe.arriving.append(Measure())
    worker.turn()
    worker.turn()
    pipe.arriving.append(generate(1))
    worker.turn()
    assert (trial.steps, trial.was_given_up) == (1, True)
    assert [type(frame) for frame in pipe.sent] == [Started, Tokens]
    worker.turn()
    assert trial.steps == 1
