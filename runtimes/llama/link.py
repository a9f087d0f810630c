"""The one place that talks to a worker process: starts it, feeds it, hears it, ends it.

A `WorkerLink` is one process from start to end. Nothing here waits for a slow consumer: each
request's `Reply` holds what its consumer has not taken, which is never more than the worker has
credit for (frames.py).

A worker that is late with what it owes (patience.py) is killed.
"""

import collections
import dataclasses
import itertools
import logging
import os
import pathlib
from collections.abc import Callable

import trio

from runtimes.base import (
    Chunk,
    Finished,
    GenerateRequest,
    Logprob,
    Request,
    RuntimeFailure,
    Started,
)
from runtimes.embedding import Vector
from runtimes.llama import frames
from runtimes.llama.patience import Patience
from runtimes.llama.reply import Overflow, Reply
from runtimes.llama.settings import LlamaSettings
from runtimes.reply_form import ReplyForm
from runtimes.worker import process
from runtimes.worker.framing import FrameError

_log = logging.getLogger(__name__)

WORKER = "runtimes.llama.worker"

LAST_LOOK_S = 0.25
"""Before a late worker is killed: it may be this process that stood still, and when it goes on, a
deadline is noticed a turn or two before what has come through a pipe."""
END_TIMEOUT_S = 5.0
"""For a killed process to vanish, and for its last words to arrive."""
OUTBOX_FRAMES_MAX = 256
"""A slot has one request, one cancel and two credits under way at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """How a worker process ended."""

    reason: str
    failure: RuntimeFailure | None = None
    """What the worker itself said, when it could not load."""
    was_ready: bool
    returncode: int | None
    """As `subprocess` counts: negative is a signal."""

    @classmethod
    def without_process(cls, error: OSError) -> "WorkerEnd":
        """Of one that could not be started: out of memory or processes."""
        reason = f"no worker can be started ({error})"
        failure = RuntimeFailure("unavailable", reason)
        return cls(reason=reason, failure=failure, was_ready=False, returncode=None)


class WorkerLink:
    """One worker process, from its start to its end."""

    def __init__(
        self,
        settings: LlamaSettings,
        *,
        memory_bytes: int,
        on_ready: Callable[[frames.Ready], None],
        on_measured: Callable[[frames.Measured], None] | None = None,
    ) -> None:
        """`memory_bytes`: what the worker plans with; 0: unknown. `on_measured`: see `measure`."""
        self._settings = settings
        self._memory_bytes = memory_bytes
        self._on_ready = on_ready
        self._on_measured = on_measured
        self._replies: dict[int, Reply] = {}
        self._numbers = itertools.count(1)
        self._outbox: collections.deque[bytes] = collections.deque()
        self._outbox_filled = trio.Event()
        self._debts_changed = trio.Event()
        self._patience = Patience(settings)
        self._process: trio.Process | None = None
        self._ready = False
        self._verdict = ""
        """Why the process was killed from here, if it was."""
        self._load_failure: RuntimeFailure | None = None
        self._is_over = False
        """Nothing more comes from the process."""
        self._ended = False
        self.progress = 0.0

    @property
    def is_up(self) -> bool:
        """Whether requests can be started."""
        return self._ready and not self._is_over and not self._verdict

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None or self._ended else self._process.pid

    def start(self, request: Request, *, on_end: Callable[[], None]) -> Reply:
        """Send a request; `on_end` is called once, when its slot in the worker is free.

        The link must be up.
        """
        assert self.is_up
        number = next(self._numbers)

        def ended() -> None:
            del self._replies[number]
            on_end()

        reply = Reply(number, on_end=ended, on_credit=self._give_credit, on_leave=self._cancel)
        self._post(_request_frame(number, request))
        self._replies[number] = reply
        self._patience.begin()
        self._debts_changed.set()
        return reply

    def measure(self, frame: frames.Measure) -> None:
        """Have the worker try out how fast the model is, or stop that."""
        self._post(frame)

    async def run(self) -> WorkerEnd:
        """Start the process and serve it until it ends. Cancelled, it ends the process.

        Raises OSError when no process can be started.
        """
        worker = self._process = await process.open_worker(WORKER)
        errors = process.StderrTail(lambda line: _log.info("llama.worker %s", line))
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        self._post(self._load_frame())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(errors.read, worker.stderr)
                nursery.start_soon(self._write, worker.stdin)
                nursery.start_soon(self._watch)
                await self._read(worker.stdout)
                self._is_over = True
                await self._hear_last_words(worker, errors)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_TIMEOUT_S):
                await self._end(worker)
        return WorkerEnd(
            reason=self._reason(worker.returncode, errors.last_line()),
            failure=self._load_failure,
            was_ready=self._ready,
            returncode=worker.returncode,
        )

    async def _end(self, worker: trio.Process) -> None:
        worker.kill()
        try:
            await worker.wait()
        finally:
            self._is_over = self._ended = True
            for stream in (worker.stdin, worker.stdout, worker.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            if self._verdict:
                failure = RuntimeFailure("crashed", f"the model's worker ended: {self._verdict}")
            else:  # cancelled from outside
                failure = RuntimeFailure("unavailable", "the model is being shut down")
            for reply in list(self._replies.values()):
                reply.fail(failure)

    async def _hear_last_words(self, worker: trio.Process, errors: process.StderrTail) -> None:
        with trio.move_on_after(END_TIMEOUT_S):
            await worker.wait()
            await errors.ended.wait()
        self._verdict = self._reason(worker.returncode, errors.last_line())

    def _reason(self, returncode: int | None, last_line: str) -> str:
        if self._verdict:
            return self._verdict
        return process.how_it_ended(returncode, last_line)

    async def _read(self, stream: trio.abc.ReceiveStream) -> None:
        decoder = frames.FrameDecoder()
        try:
            async for data in stream:
                for frame in decoder.feed(data):
                    self._handle(frame)
        except (FrameError, Overflow) as error:
            self._kill(f"it sent nonsense ({error!r})")
        except trio.BrokenResourceError:
            pass  # as good as the end of the pipe

    async def _write(self, stream: trio.abc.SendStream) -> None:
        try:
            while True:
                while self._outbox:
                    await stream.send_all(self._outbox.popleft())
                self._outbox_filled = trio.Event()
                await self._outbox_filled.wait()
        except trio.BrokenResourceError:
            pass  # the process is gone, which the reader notices

    async def _watch(self) -> None:
        while True:
            self._debts_changed = trio.Event()
            deadline, _ = self._patience.deadline(self._replies.values())
            with trio.move_on_at(deadline) as waiting:
                await self._debts_changed.wait()
            if waiting.cancelled_caught:
                await trio.sleep(LAST_LOOK_S)
                deadline, verdict = self._patience.deadline(self._replies.values())
                if deadline <= trio.current_time():
                    self._kill(verdict)
                    return

    def _handle(self, frame: frames.Frame) -> None:
        if self._patience.note(frame):
            self._debts_changed.set()
        match frame:
            case frames.Loading():
                self.progress = frame.progress
            case frames.Ready():
                self._ready = True
                self.progress = 1.0
                self._on_ready(frame)
            case frames.LoadFailed():
                self._load_failure = RuntimeFailure(frame.code, frame.message)
            case frames.Started():
                form = ReplyForm(frame.calls, frame.thoughts)
                self._reply(frame.request).put(Started(frame.prompt_token_ids, form))
            case frames.Prefilled() | frames.Encoding():
                self._reply(frame.request)  # a sign of life, no more
            case frames.Tokens():
                self._reply(frame.request).put(_chunk(frame))
            case frames.Embedded():
                self._reply(frame.request).put(_vector(frame))
            case frames.Ended():
                finished = Finished(
                    frame.finish_reason,
                    frame.prompt_tokens,
                    frame.completion_tokens,
                    frame.cached_tokens,
                )
                self._reply(frame.request).put(finished)
            case frames.Failed():
                self._reply(frame.request).fail(RuntimeFailure(frame.code, frame.message))
            case frames.Cancelled():
                self._reply(frame.request).end()
            case frames.Measured() if self._on_measured is not None:
                self._on_measured(frame)
            case _:
                raise FrameError(f"{type(frame).__name__} from a worker")

    def _reply(self, request: int) -> Reply:
        reply = self._replies.get(request)
        if reply is None:
            raise FrameError(f"nothing runs under the number {request}")
        return reply

    def _give_credit(self, request: int, tokens: int) -> None:
        self._patience.begin()
        self._post(frames.Credit(request=request, tokens=tokens))
        self._debts_changed.set()

    def _cancel(self, reply: Reply) -> None:
        self._post(frames.Cancel(request=reply.request))
        self._debts_changed.set()

    def _post(self, frame: frames.Frame) -> None:
        if len(self._outbox) >= OUTBOX_FRAMES_MAX:
            self._kill("it does not read")
            return
        self._outbox.append(frames.encode(frame))
        self._outbox_filled.set()

    def _kill(self, verdict: str) -> None:
        self._verdict = self._verdict or verdict
        if self._process is not None:
            self._process.kill()

    def _load_frame(self) -> frames.Load:
        return frames.Load(
            path=os.fsencode(self._settings.path),
            context_tokens=self._settings.context_tokens,
            cores=self._settings.cores,
            threads=self._settings.threads,
            gpu_layers=self._settings.gpu_layers,
            split_mode=self._settings.split.mode,
            main_gpu=self._settings.split.main_gpu,
            tensor_split=self._settings.split.shares,
            content_hash=self._settings.content_hash,
            slots=self._settings.slots,
            kv_tokens=self._settings.kv_tokens,
            reproducible=self._settings.reproducible,
            flash_attention=self._settings.flash_attention,
            memory_bytes=self._memory_bytes,
            lora=_encoded(None if self._settings.lora is None else self._settings.lora.path),
            lora_scale=1.0 if self._settings.lora is None else self._settings.lora.scale,
            draft=_encoded(self._settings.draft),
            draft_tokens=self._settings.draft_tokens,
            projector=_encoded(self._settings.projector),
            kv_type=self._settings.kv_type,
            batch_tokens=self._settings.batch_tokens,
            mmap=self._settings.mmap,
        )


def _encoded(path: pathlib.Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def _request_frame(number: int, request: Request) -> frames.Frame:
    if isinstance(request, GenerateRequest):
        return _generate_frame(number, request)
    return frames.Embed(
        request=number,
        texts=request.texts,
        token_ids=request.token_ids,
        query=request.query,
        dimensions=request.dimensions,
    )


def _generate_frame(number: int, request: GenerateRequest) -> frames.Frame:
    turns = request.messages
    return frames.Generate(
        request=number,
        messages=None if turns is None else tuple(turn.texts() for turn in turns),
        prompt=request.prompt,
        max_tokens=request.max_tokens,
        temperature=float(request.temperature),
        top_p=float(request.top_p),
        top_k=request.top_k,
        min_p=float(request.min_p),
        seed=request.seed,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        typical_p=float(request.typical_p),
        repeat_penalty=float(request.repeat_penalty),
        presence_penalty=float(request.presence_penalty),
        frequency_penalty=float(request.frequency_penalty),
        bias_tokens=tuple(token for token, _ in request.logit_bias),
        bias_values=tuple(float(bias) for _, bias in request.logit_bias),
        grammar=request.grammar,
        json_schema=request.json_schema,
        continued_ids=request.continued_ids,
        logprobs=request.logprobs,
        tools=tuple((tool.name, tool.description, tool.parameters) for tool in request.tools),
        must_call=request.must_call,
        parallel_calls=request.parallel_calls,
        with_markers=request.with_markers,
        stop_token_ids=request.stop_token_ids,
        images=tuple(image.data for image in request.images),
        image_places=tuple((image.message, image.at) for image in request.images),
    )


def _vector(frame: frames.Embedded) -> Vector:
    """Raises FrameError."""
    try:
        return Vector.read(frame.data)
    except ValueError as error:
        raise FrameError(str(error)) from error


def _chunk(frame: frames.Tokens) -> Chunk:
    """Raises FrameError."""
    if not frame.likely_ids:
        return Chunk(frame.token_ids, frame.text)
    columns = frame.likely_ids, frame.likely_data, frame.likely_logprobs
    if len(frame.token_ids) != 1 or len(set(map(len, columns))) != 1:
        raise FrameError("logprobs that do not fit their token")
    likely = tuple(map(Logprob, *columns))
    return Chunk(frame.token_ids, frame.text, (likely,))
