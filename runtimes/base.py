"""The one place for the contract between a node and whatever produces its tokens.

A `Source` is what one `--model` value brings; a `Runtime` is a source of exactly one model and
serves it. They know nothing of gossip, peers or HTTP: a runtime is asked what it offers, how busy
it is, and to run one `Request`; it answers with a stream of `Started`, `Chunk`..., `Finished`
(`Vector`... where texts are to be embedded), or raises a `RuntimeFailure`.

Rule 1: `Started` comes first and carries the rendered prompt's token ids (those of all texts that
        are to be embedded; 0 for each token of an image), before any prefill.
Rule 2: every completion token is in exactly one `Chunk`; the ids of all chunks are the completion.
        A foreign upstream tells no ids: its `Started` and its chunks carry none, and its
        `Finished` has the counts that the upstream states.
Rule 3: text is complete UTF-8; bytes of an unfinished character wait for the next chunk.
Rule 4: leaving the generator (cancel, error, early exit) frees its slot at once.
Rule 5: of an `EmbedRequest` each text has one `Vector`, in their order, all of one dimension.
"""

import abc
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from runtimes.embedding import GENERATE, SEE, EmbedRequest, Vector
from runtimes.images import Image
from runtimes.reply_form import PLAIN, ReplyForm
from runtimes.standing import ModelState, Standing

if TYPE_CHECKING:
    from runtimes.hardware import Gpu
    from runtimes.model_memory import ModelMemory

CHAT: Final = "chat"
ANY: Final = "any"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that the model has called in an earlier turn."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: JSON text, mostly of an object."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str
    """The JSON schema of its arguments, which is an object, as JSON text."""

    def as_object(self) -> dict[str, Any]:
        """In OpenAI's shape, which is also that of chat templates.

        Raises RuntimeFailure `bad_request` for parameters that are no JSON object.
        """
        try:
            parameters = json.loads(self.parameters)
        except (ValueError, RecursionError):
            parameters = None
        if not isinstance(parameters, dict):
            raise RuntimeFailure("bad_request", f"the parameters of {self.name!r} are no object")
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation, as the model's chat template sees it."""

    role: str
    """`system`, `user`, `assistant`, `tool` or whatever else the template knows."""
    content: str
    reasoning: str = ""
    """Of an assistant's turn: what it thought before it spoke."""
    name: str = ""
    """Of a tool's turn: the function that gave this result, if it is said."""
    tool_call_id: str = ""
    """Of a tool's turn: the call that it answers."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn."""

    def as_object(self, read_arguments: Callable[[str], object]) -> dict[str, Any]:
        """In OpenAI's shape, which is also that of chat templates; what is not there is absent.

        `read_arguments`: what becomes of the text of a call's arguments.
        """
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        rest = {
            "reasoning_content": self.reasoning,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
        }
        turn |= {key: text for key, text in rest.items() if text}
        if self.tool_calls:
            functions = (
                {"name": call.name, "arguments": read_arguments(call.arguments)}
                for call in self.tool_calls
            )
            turn["tool_calls"] = [
                {"id": call.id, "type": "function", "function": function}
                for call, function in zip(self.tool_calls, functions, strict=True)
            ]
        return turn

    def texts(self) -> tuple[str, ...]:
        """All of it in one row: two texts, or five and three more for each call."""
        rest = (self.reasoning, self.name, self.tool_call_id)
        if not (any(rest) or self.tool_calls):
            return (self.role, self.content)
        calls = ((call.id, call.name, call.arguments) for call in self.tool_calls)
        return (self.role, self.content, *rest, *(text for call in calls for text in call))

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "ChatMessage":
        """The inverse. Raises ValueError for another number of texts."""
        role, content, *more = texts
        reasoning, name, tool_call_id, *calls = more or ("", "", "")
        if len(calls) % 3:
            raise ValueError("half a call")
        return cls(
            role=role,
            content=content,
            reasoning=reasoning,
            name=name,
            tool_call_id=tool_call_id,
            tool_calls=tuple(
                ToolCall(id=calls[at], name=calls[at + 1], arguments=calls[at + 2])
                for at in range(0, len(calls), 3)
            ),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What to generate. Exactly one of `messages` and `prompt` is given."""

    model: str
    """The model's name as the mesh lists it."""
    messages: tuple[ChatMessage, ...] | None = None
    """If the last one is an assistant's, the answer goes on where it ends."""
    prompt: str | None = None
    max_tokens: int | None = None
    """Completion tokens at most; None: as many as the context has room for."""
    temperature: float = 0.8
    """0 is greedy."""
    top_p: float = 0.95
    top_k: int = 40
    """0 switches the filter off."""
    min_p: float = 0.05
    seed: int | None = None
    """None: the runtime draws one."""
    stop: tuple[str, ...] = ()
    """Text that ends the completion; it is not part of the output."""
    ignore_eos: bool = False
    """Go on past the model's end-of-turn until `max_tokens`."""
    typical_p: float = 1.0
    """1 switches the filter off."""
    repeat_penalty: float = 1.0
    """What logits of recent tokens are divided by; 1 is none."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that came recently."""
    frequency_penalty: float = 0.0
    """The same, for each time that it came."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits."""
    grammar: str | None = None
    """GBNF with a rule `root`, which the completion keeps. Not together with `json_schema`."""
    json_schema: str | None = None
    """A JSON schema as JSON text, which the completion keeps."""
    continued_ids: tuple[int, ...] = ()
    """Completion tokens that another run has emitted already: this one goes on behind them, as
    that one would have, and emits and counts only what is new. `max_tokens` is of the new ones, and
    here alone may be 0: nothing is to be added, and `Finished` says how the answer ended."""
    logprobs: int | None = None
    """Tell with each token how likely it was, and so many of the likeliest; None: do not tell."""
    tools: tuple[Tool, ...] = ()
    """Functions that the model may call; only beside `messages`."""
    must_call: bool = False
    """The answer is a call of one of `tools`, whose arguments keep their schema."""
    parallel_calls: bool = True
    """The answer may have several calls."""
    with_markers: bool = False
    """The text has the tokens that mark thoughts and calls (`ReplyForm`), and `Started` says which
    they are; else such tokens are left out where the vocabulary holds them to be no text."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the completion as the model's own end of turn does, whatever `ignore_eos`
    says: they are counted, and add no text."""
    images: tuple[Image, ...] = ()
    """What `messages` show, in the order in which they show it."""

    @property
    def task(self) -> str:
        """What a model must be made for."""
        return SEE if self.images else GENERATE


Request = GenerateRequest | EmbedRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """The request has a slot and its prompt is rendered."""

    prompt_token_ids: tuple[int, ...]
    form: ReplyForm = PLAIN
    """How the text is to be read; plain unless `with_markers` was asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was: the model's own say, before penalties, filters and temperature."""

    token: int
    data: bytes
    """What the token adds to the text; a part of a character, perhaps."""
    logprob: float
    """Natural logarithm of its share."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Some completion tokens and the text that they complete."""

    token_ids: tuple[int, ...]
    text: str
    """May be empty while a character or a possible stop string is unfinished."""
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    """If they were asked for, for each token: it itself, then the likeliest in its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The completion's regular end."""

    finish_reason: str
    """`stop` (end of turn or stop string) or `length`."""
    prompt_tokens: int
    completion_tokens: int
    """Every sampled token, the one that ended the turn included."""
    cached_tokens: int = 0
    """Of the prompt's tokens, those that were still known from earlier requests."""


GenerateEvent = Started | Chunk | Vector | Finished


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a runtime offers to the mesh: one model."""

    name: str
    content_hash: str
    """Lower-case hex over the weight files; equal hashes mean interchangeable models."""
    runtime: str
    """The runtime's entry-point name, such as `llama`."""
    architecture: str = ""
    parameters: int = 0
    """Number of weights; 0: unknown."""
    quantization: str = ""
    size_bytes: int = 0
    context_tokens: int = 0
    tasks: tuple[str, ...] = (GENERATE,)
    """What it can do, of `runtimes.embedding.TASKS`."""
    load_ms: int = 0
    """How long a request waits for it to be loaded, about; 0: it is in memory."""
    prefill: str = ""
    """Of a foreign server, where it goes on behind an answer that is begun as text: nowhere, in a
    `chat` behind an assistant's last message, or behind `any` text, a plain prompt's too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How busy a runtime is, in requests."""

    queued: int
    running: int
    slots: int


class RuntimeFailure(Exception):
    """A request or a runtime failed; `code` is stable, the message is for people.

    Codes: `bad_request` (the request can never succeed on this model), `context_too_long`,
    `queue_full`, `unavailable` (not loaded, crashed, draining), `crashed` (died under the
    request), `invalid_model` (the file is no usable model), `missing_dependency`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Source(abc.ABC):
    """What one `--model` value brings: one runtime, or several that may change (an upstream)."""

    @property
    @abc.abstractmethod
    def runtimes(self) -> "tuple[Runtime, ...]":
        """One for each model, as of now."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Of each model, those that cannot be offered included."""
        return tuple(runtime.standing for runtime in self.runtimes if runtime.standing is not None)

    @property
    def advice(self) -> str | None:
        """One line that would make this source work better (a GPU lies idle), if any."""
        return None

    def use_memory(self, memory: "ModelMemory") -> None:  # noqa: B027  # nothing is an answer
        """Called once, before `serve`: `memory` says when models are loaded and unloaded. Whose
        models lie elsewhere has no use for it.
        """

    @abc.abstractmethod
    async def serve(self, on_change: "ChangeCallback") -> None:
        """Get the models and keep them up until cancelled.

        `on_change()` after `runtimes`, a card or health changed. Restarts what crashes with
        back-off. Raises RuntimeFailure only for what no restart mends: `invalid_model`,
        `missing_dependency`.
        """


class Runtime(Source):
    """One model, ready to be asked. Used by one daemon, from trio tasks of one thread."""

    @property
    def runtimes(self) -> "tuple[Runtime, ...]":
        """Itself."""
        return (self,)

    @property
    @abc.abstractmethod
    def card(self) -> ModelCard | None:
        """What is offered now: the model is loaded, or is when somebody asks (`load_ms`). None
        while `serve` does not run, or while it is down.
        """

    @property
    def standing(self) -> Standing | None:
        """How the model is doing; None while nothing is known of it."""
        card = self.card
        return None if card is None else Standing(card=card, state=ModelState.READY)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """Inside this somebody waits for the model or uses it: it is loaded, and stays."""
        yield

    @property
    @abc.abstractmethod
    def load(self) -> Load:
        """Requests waiting and running now."""

    @property
    def gpus(self) -> "tuple[Gpu, ...]":
        """GPUs that it has found on this machine, of whatever maker; none while it knows none."""
        return ()

    @property
    def kept_tokens(self) -> int:
        """About so many tokens of prompts that were answered stay in the model, for others that
        begin alike; 0: none, or it is not known.
        """
        return 0

    @abc.abstractmethod
    def generate(self, request: Request) -> AsyncGenerator[GenerateEvent, None]:
        """Run one request; see the rules above. Close it with `aclosing`.

        Raises RuntimeFailure with the codes named there; `bad_request` for a task that the model
        is not made for.
        """


class ChangeCallback(Protocol):
    """Called without arguments, from a trio task, when `Runtime.card` may differ."""

    def __call__(self) -> None: ...


class RuntimeFactory(Protocol):
    """An entry point of the group `meshd.runtimes`."""

    def __call__(self, source: str, *, options: Mapping[str, str]) -> Source:
        """Make what `source` names (what follows `NAME:` on the command line, or a file path).

        Cheap checks happen here (does the file exist, is it GGUF): raises RuntimeFailure with
        `invalid_model` or `missing_dependency` and a message that says the mend.
        """
        ...
