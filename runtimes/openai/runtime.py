"""The one place where one model of an upstream becomes a `Runtime`: queued for, asked, cut off.

An upstream tells no token ids: `Started` comes with the first byte of its answer, and chunks have
text alone. Leaving the generator closes the connection, which is how such servers are told to stop.
"""

import dataclasses
import functools
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext

import trio

from runtimes.base import (
    ChangeCallback,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Load,
    ModelCard,
    Request,
    Runtime,
    RuntimeFailure,
    Started,
)
from runtimes.embedding import EmbedRequest
from runtimes.images import BadImage, Image, check_pixels
from runtimes.limits import check_request, check_task
from runtimes.openai import embedding
from runtimes.openai.body import body_of, path_of
from runtimes.openai.call import Call, Silent
from runtimes.openai.event_lines import EventLines
from runtimes.openai.failures import ERROR_BYTES_MAX, from_status, malformed
from runtimes.openai.listing import ListedModel
from runtimes.openai.occupancy import IDLE, Occupancy
from runtimes.openai.prefill import begun
from runtimes.openai.reply import Reply
from runtimes.openai.settings import UpstreamSettings
from runtimes.reply_form import PLAIN, ReplyForm
from runtimes.slots import Slots

RUNTIME_NAME = "openai"
LOOKS_IN_VAIN_MAX = 6
"""After so many that told nothing, what was told before is no longer believed."""
LOAD_MS = 10_000
"""What is assumed of a model that an upstream has to load first: no upstream says."""
PIECE_CHARACTERS_MAX = 16 * 1024
"""Of one chunk; what comes in larger pieces is passed on in several."""
_DONE = b"[DONE]"
_STREAM = "text/event-stream"


class UpstreamRuntime(Runtime):
    """One model of an upstream. Its source says when it is there.

    `turn` is what a request holds while it runs, where the upstream takes one at a time.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        model: ListedModel,
        *,
        base: str,
        slots: int,
        turn: trio.Semaphore | None,
        on_failure: Callable[[RuntimeFailure], None],
    ) -> None:
        self._settings = settings
        self._model = model.id
        self._base = base
        self._slots = Slots(slots, settings.queue_max)
        self._usual_slots = slots
        self._turn = turn
        self._on_failure = on_failure
        self._card: ModelCard | None = _card(settings, model)
        self._occupancy = IDLE
        self._looks_in_vain = 0
        self._others = Load(0, 0, 0)
        """Requests that the upstream told of, and are not ours."""
        self._why_gone = ""
        self._waits: set[trio.CancelScope] = set()

    @property
    def card(self) -> ModelCard | None:
        """See `Runtime.card`."""
        return self._card

    @property
    def load(self) -> Load:
        """See `Runtime.load`; with what the upstream does for others, as it tells."""
        ours = self._slots.load
        others = self._others
        return Load(ours.queued + others.queued, ours.running + others.running, ours.slots)

    @property
    def is_used(self) -> bool:
        """Whether a request of ours runs."""
        return self._slots.load.running > 0

    def note(self, occupancy: Occupancy | None) -> None:
        """What the upstream has just told of this model; None: it did not answer, and what it told
        before holds for a while.
        """
        self._looks_in_vain = 0 if occupancy is not None else self._looks_in_vain + 1
        if occupancy is None:
            if self._looks_in_vain < LOOKS_IN_VAIN_MAX:
                return
            occupancy = dataclasses.replace(self._occupancy, running=0, waiting=0)
        self._occupancy = occupancy
        # Of ours that run here some may wait there.
        ours = self._slots.load.running
        others = max(0, occupancy.running + occupancy.waiting - ours)
        running = max(0, occupancy.running - ours)
        self._others = Load(others - running, running, 0)
        if self._settings.slots is None and self._turn is None:
            self._slots.resize(occupancy.slots or self._usual_slots)
        if self._card is not None:
            self._card = self._with_load_ms(self._card)

    def _with_load_ms(self, card: ModelCard) -> ModelCard:
        load_ms = 0 if self._occupancy.is_loaded else LOAD_MS
        return dataclasses.replace(card, load_ms=load_ms)

    async def serve(self, on_change: ChangeCallback) -> None:
        """Its source keeps it up; there is nothing to do here."""
        del on_change
        await trio.sleep_forever()

    def describe(self, model: ListedModel, base: str) -> None:
        """Take over what the upstream now says of this model."""
        self._base = base
        self._card = self._with_load_ms(_card(self._settings, model))

    def withdraw(self, why: str, *, break_off: bool = False) -> None:
        """It is not there any more; `break_off`: running requests have nobody to wait for."""
        self._card = None
        self._why_gone = why
        if break_off:
            for scope in self._waits:
                scope.cancel()

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """See `Runtime.generate`."""
        check_request(request)
        self._check_offered(request)
        if isinstance(request, EmbedRequest):
            answer = self._vectors(request)
        elif request.prompt == "":
            raise RuntimeFailure("bad_request", "the prompt is empty")
        else:
            answer = self._answer(request)
        await self._slots.acquire()
        try:
            async with self._turn or nullcontext(), aclosing(answer) as events:
                async for event in events:
                    yield event
        except RuntimeFailure as failure:
            self._on_failure(failure)
            raise RuntimeFailure(
                failure.code, self._settings.without_key(failure.message)
            ) from failure
        finally:
            self._slots.release()

    async def _answer(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        prefill = self._check_offered(request).prefill
        await _check_pixels(request.images)
        async with aclosing(Call(self._settings)) as call:
            await self._open(call, path_of(request), body_of(request, self._model, prefill))
            await self._check_answer(call, _STREAM)
            reply = Reply(begun(request, prefill), with_markers=request.with_markers)
            lines = EventLines()
            has_started = False
            async with aclosing(self._pieces(call, reply)) as pieces:
                async for data in pieces:
                    if not has_started:
                        has_started = True
                        yield Started((), _form(request))
                    for payload in lines.push(data):
                        if payload == _DONE:
                            yield reply.finished()
                            return
                        for text in _split(reply.take(payload)):
                            yield Chunk((), text)
            for payload in lines.finish():
                if payload != _DONE:
                    for text in _split(reply.take(payload)):
                        yield Chunk((), text)
            yield reply.finished()

    async def _vectors(self, request: EmbedRequest) -> AsyncGenerator[GenerateEvent, None]:
        has_started, tokens = False, 0
        for count, body in embedding.bodies_of(request, self._model):
            self._check_offered(request)
            async with aclosing(Call(self._settings)) as call:
                await self._open(call, embedding.path_of(request), body)
                await self._check_answer(call, "application/json")
                if not has_started:
                    has_started = True
                    yield Started(())
                answer = await self._while_there(functools.partial(self._read_whole, call))
            vectors, of_these = embedding.read_answer(answer, request, count)
            tokens += of_these
            for vector in vectors:
                yield vector
        yield Finished("stop", tokens, 0)

    async def _open(self, call: Call, path: str, body: bytes) -> None:
        limit_s = self._settings.first_byte_s
        await self._while_there(
            functools.partial(call.open, "POST", self._base + path, body, within_s=limit_s)
        )

    async def _read_whole(self, call: Call) -> bytes:
        with trio.move_on_after(self._settings.silence_s):
            return await call.read_all(embedding.ANSWER_BYTES_MAX)
        raise Silent(self._settings.silence_s)

    async def _pieces(self, call: Call, reply: Reply) -> AsyncGenerator[bytes, None]:
        """The stream's bytes. Once the answer is whole, how the stream ends does not matter."""
        limit_s = self._settings.first_byte_s
        while not reply.is_finished:
            data = await self._while_there(functools.partial(call.read, within_s=limit_s))
            if not data:
                return
            yield data
            limit_s = self._settings.silence_s
        deadline = trio.current_time() + self._settings.usage_s
        while (left_s := deadline - trio.current_time()) > 0:
            try:
                data = await call.read(within_s=left_s)
            except RuntimeFailure:
                return
            if not data:
                return
            yield data

    async def _check_answer(self, call: Call, wanted: str) -> None:
        """Raise what an answer means that is not of the type that is wanted."""
        if call.status != 200:
            limit_s = self._settings.connect_s
            body = b""
            with trio.move_on_after(limit_s):
                body = await call.read_all(ERROR_BYTES_MAX)
            raise from_status(call.status, body)
        kind = call.header("content-type").partition(";")[0].strip().lower()
        if kind != wanted:
            raise malformed("it does not stream" if wanted == _STREAM else f"it is no {wanted}")

    async def _while_there(self, wait: Callable[[], Awaitable[bytes | None]]) -> bytes:
        """Wait for the upstream as long as there is one."""
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                return await wait() or b""
            finally:
                self._waits.discard(scope)
        raise RuntimeFailure("crashed", self._why_gone or "the upstream is gone")

    def _check_offered(self, request: Request) -> ModelCard:
        if self._card is None:
            raise RuntimeFailure(
                "unavailable", self._why_gone or f"the upstream has no {self._model!r} now"
            )
        check_task(request, self._card)
        return self._card


async def _check_pixels(images: tuple[Image, ...]) -> None:
    """Raise RuntimeFailure `bad_request` for one that is more than it says, to unfold or to decode:
    llama-server takes whatever memory and time that is.
    """
    for number, image in enumerate(images, start=1):
        try:
            await trio.to_thread.run_sync(check_pixels, image.data, abandon_on_cancel=True)
        except BadImage as error:
            raise RuntimeFailure("bad_request", f"image {number} {error}") from error


def _form(request: GenerateRequest) -> ReplyForm:
    if not request.with_markers:
        return PLAIN
    return ReplyForm("hermes" if request.tools else "", "may")


def _split(text: str | None) -> list[str]:
    if text is None:
        return []
    size = PIECE_CHARACTERS_MAX
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def _card(settings: UpstreamSettings, model: ListedModel) -> ModelCard:
    what = f"{settings.address.url}\0{model.id}".encode()
    digest = hashlib.blake2b(what, digest_size=16, key=settings.salt).hexdigest()
    return ModelCard(
        name=model.id,
        content_hash=f"upstream-{digest}",
        runtime=RUNTIME_NAME,
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        context_tokens=model.context_tokens,
        tasks=model.tasks,
        prefill=model.prefill,
    )
