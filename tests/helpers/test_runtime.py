"""The one place for a runtime whose every token can be foretold, for tests without llama.cpp.

`--model test:NAME[,key=value...]`. The next token is a hash of NAME and of all tokens before it,
prompt included, so any node that knows the tokens so far goes on in the same way, and a test can
compute what must come (`completion_ids`, `text_of`). The prompt's tokens are its UTF-8 bytes; a
completion's tokens are FIRST_WORD and above, each a short word. A request that must call a function
gets a call of the first one, as Hermes writes it (`call_text`), in one token for each byte.

Keys: `delay_ms` before each token (0); `first_ms` before the first one, beside that (0); `load_ms`
until the model is up (0); `slots` (1); `queue` (32); `context` (4096 tokens); `fail_at=N` crashes
and `hang_at=N` falls silent before token N, counted from 0; `end_one_in=N` makes every Nth token or
so end the turn (0: never by itself); `torn=1` moves the first two bytes of each token behind its
others, so that some tokens end in the middle of a character; `dimensions=N` embeds texts in so many
numbers instead (`vector_of`), and with 1 ranks them: `delay_ms`, `fail_at`, `hang_at` are then of
vectors.
"""

import dataclasses
import hashlib
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence

import trio

from runtimes.base import (
    ChangeCallback,
    ChatMessage,
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
from runtimes.completion_text import CompletionText
from runtimes.embedding import EMBED, GENERATE, RERANK, EmbedRequest, Vector, normalised
from runtimes.limits import check_request, check_task, check_tokens
from runtimes.reply_form import PLAIN, ReplyForm
from runtimes.slots import Slots
from runtimes.source_options import check_names, integer_option

END_OF_TURN = 256
FIRST_WORD = 257
WORDS = 1000
DEFAULT_MAX_TOKENS = 16
_SYLLABLES = ("ka", "lo", "mi", "ne", "pu", "ra", "sö", "ti", "vé", "zu")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a test asked for."""

    name: str
    delay_ms: int = 0
    first_ms: int = 0
    load_ms: int = 0
    slots: int = 1
    queue: int = 32
    context: int = 4096
    fail_at: int | None = None
    hang_at: int | None = None
    end_one_in: int = 0
    torn: int = 0
    dimensions: int = 0

    @property
    def task(self) -> str:
        """What it is made for."""
        return {0: GENERATE, 1: RERANK}.get(self.dimensions, EMBED)


def create(source: str, *, options: Mapping[str, str]) -> "ScriptedRuntime":
    """The entry point `test`; `name` is how the model is called on the mesh."""
    if not source:
        raise RuntimeFailure("invalid_model", "test: needs a name, such as test:echo")
    numbers = {option: value for option, value in options.items() if option != "name"}
    check_names(numbers, [field.name for field in dataclasses.fields(Script)])
    values = {option: integer_option(numbers, option, 0, 2**31) or 0 for option in numbers}
    return ScriptedRuntime(Script(name=source, **values), shown_as=options.get("name", source))


class ScriptedRuntime(Runtime):
    """Keeps the contract of runtimes/base.py, and tells nothing but words."""

    def __init__(self, script: Script, *, shown_as: str) -> None:
        self._script = script
        self._slots = Slots(script.slots, script.queue)
        self._offered = ModelCard(
            name=shown_as,
            content_hash=hashlib.blake2b(script.name.encode(), digest_size=32).hexdigest(),
            runtime="test",
            architecture="words",
            context_tokens=script.context,
            tasks=(script.task,),
        )
        self._is_up = False

    @property
    def card(self) -> ModelCard | None:
        """See `Runtime.card`."""
        return self._offered if self._is_up else None

    @property
    def load(self) -> Load:
        """See `Runtime.load`."""
        return self._slots.load

    async def serve(self, on_change: ChangeCallback) -> None:
        """See `Runtime.serve`."""
        await trio.sleep(self._script.load_ms / 1000)
        self._is_up = True
        try:
            on_change()
            await trio.sleep_forever()
        finally:
            self._is_up = False
            on_change()

    async def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """See `Runtime.generate`."""
        check_request(request)
        self._check_is_up()
        check_task(request, self._offered)
        await self._slots.acquire()
        try:
            self._check_is_up()
            if isinstance(request, EmbedRequest):
                texts = text_ids(request)
                check_tokens([len(ids) for ids in texts], self._script.context)
                yield Started(tuple(token for ids in texts for token in ids))
                for index, ids in enumerate(texts):
                    await self._before(index)
                    yield vector_of(self._script.name, ids, self._script.dimensions, request)
                yield Finished("stop", sum(map(len, texts)), 0)
                return
            prompt = prompt_ids(request)
            room = self._script.context - len(prompt) - len(request.continued_ids)
            if not prompt:
                raise RuntimeFailure("bad_request", "the prompt is empty")
            if room < (0 if request.continued_ids else 1):
                raise RuntimeFailure(
                    "context_too_long",
                    f"{len(prompt)} tokens, and the context holds {self._script.context}",
                )
            form = ReplyForm("hermes") if request.tools and request.with_markers else PLAIN
            yield Started(tuple(prompt), form)
            text = CompletionText(request.stop)
            before = [*prompt, *request.continued_ids]
            chain = _Chain(self._script, before, may_end=not request.ignore_eos)
            if request.must_call:
                whole = call_text(self._script.name, request).encode()
                chain.told = [*whole, END_OF_TURN][len(request.continued_ids) :]
            ends = {END_OF_TURN, *request.stop_token_ids}
            for token in request.continued_ids:
                text.push(b"" if token in ends else self._piece(token))
            wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
            tokens_max = min(room, wanted)
            has_stopped = bool(ends & {*request.continued_ids}) or text.stopped
            if has_stopped or tokens_max == 0:
                yield Finished("stop" if has_stopped else "length", len(prompt), 0)
                return
            for index in range(tokens_max):
                await self._before(index)
                token = chain.next()
                piece = text.push(b"" if token in ends else self._piece(token))
                stopped = token in ends or text.stopped
                is_last = stopped or index + 1 == tokens_max
                yield Chunk((token,), piece + (text.finish() if is_last else ""))
                if is_last:
                    yield Finished("stop" if stopped else "length", len(prompt), index + 1)
                    return
        finally:
            self._slots.release()

    def _piece(self, token: int) -> bytes:
        piece = piece_of(token)
        return piece[2:] + piece[:2] if self._script.torn else piece

    async def _before(self, index: int) -> None:
        if index == self._script.fail_at:
            raise RuntimeFailure("crashed", f"told to fail at token {index}")
        if index == self._script.hang_at:
            await trio.sleep_forever()
        pause_ms = self._script.delay_ms + (self._script.first_ms if index == 0 else 0)
        await trio.sleep(pause_ms / 1000)

    def _check_is_up(self) -> None:
        if not self._is_up:
            raise RuntimeFailure("unavailable", f"{self._offered.name} is not loaded")


class _Chain:
    """Goes from token to token."""

    def __init__(self, script: Script, prompt: Sequence[int], *, may_end: bool) -> None:
        self._end_one_in = script.end_one_in if may_end else 0
        self._seen = hashlib.blake2b(script.name.encode(), digest_size=8)
        self.told: list[int] = []
        """What comes first, whatever was before."""
        for token in prompt:
            self._see(token)

    def next(self) -> int:
        if self.told:
            return self.told.pop(0)
        number = int.from_bytes(self._seen.copy().digest(), "big")
        ends = self._end_one_in > 0 and number // WORDS % self._end_one_in == 0
        token = END_OF_TURN if ends else FIRST_WORD + number % WORDS
        self._see(token)
        return token

    def _see(self, token: int) -> None:
        self._seen.update(struct.pack(">I", token))


def prompt_ids(request: GenerateRequest) -> list[int]:
    """The tokens of a request's prompt."""
    return list(render(request.messages, request.prompt).encode())


def text_ids(request: EmbedRequest) -> list[tuple[int, ...]]:
    """The tokens of each text of a request."""
    query = (request.query or "").encode()
    return [*request.token_ids, *(tuple(query + text.encode()) for text in request.texts)]


def vector_of(name: str, ids: Sequence[int], dimensions: int, request: EmbedRequest) -> Vector:
    """What the model `name` makes of a text's tokens."""
    shake = hashlib.shake_128(struct.pack(f">{len(ids)}I", *ids) + name.encode())
    numbers = [
        number / 2**15 for number in struct.unpack(f">{dimensions}h", shake.digest(2 * dimensions))
    ]
    return Vector.of(numbers if dimensions == 1 else normalised(numbers, request.dimensions))


def render(messages: tuple[ChatMessage, ...] | None, prompt: str | None) -> str:
    """The prompt's text."""
    if messages is None:
        return prompt or ""
    turns = "".join(
        f"{turn.role}: {turn.content}{''.join(call.arguments for call in turn.tool_calls)}\n"
        for turn in messages
    )
    is_begun = messages[-1].role == "assistant"
    return turns.removesuffix("\n") if is_begun else f"{turns}assistant:"


def call_text(name: str, request: GenerateRequest) -> str:
    """How the model `name` calls the first of a request's tools: with a word that no other prompt
    has.
    """
    said = text_of(completion_ids(name, prompt_ids(request), 1)).strip()
    call = f'{{"name": "{request.tools[0].name}", "arguments": {{"word": "{said}"}}}}'
    return f"<tool_call>\n{call}\n</tool_call>"


def completion_ids(name: str, tokens_before: Sequence[int], count: int) -> list[int]:
    """The `count` tokens that come after `tokens_before` (prompt and what was emitted already)."""
    chain = _Chain(Script(name=name), tokens_before, may_end=False)
    return [chain.next() for _ in range(count)]


def text_of(token_ids: Sequence[int]) -> str:
    """The text of completion tokens."""
    return "".join(word(token) for token in token_ids if token != END_OF_TURN)


def answer_text(name: str, text: str, count: int) -> str:
    """What a chat that says `text` is answered, in so many tokens."""
    turns = (ChatMessage(role="user", content=text),)
    prompt = prompt_ids(GenerateRequest(model=name, messages=turns))
    return text_of(completion_ids(name, prompt, count))


def piece_of(token: int) -> bytes:
    """What a token adds to the text."""
    if token < END_OF_TURN:
        return bytes([token])
    return b"" if token == END_OF_TURN else word(token).encode()


def word(token: int) -> str:
    """The text of one completion token: three syllables and a space; some letters are not ASCII."""
    number = token - FIRST_WORD
    assert 0 <= number < WORDS
    return "".join(_SYLLABLES[number // 10**place % 10] for place in (2, 1, 0)) + " "
