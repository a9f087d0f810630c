"""The one place that turns a conversation into a prompt, with the model's own Jinja template.

A template is a program from the model file, which came from anywhere: it runs in jinja2's
sandbox and inside the worker process, so the worst it can do is to cost that process its life.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
from typing import Any, Final, NoReturn

from runtimes.base import ChatMessage, RuntimeFailure, Tool, ToolCall
from runtimes.limits import PROMPT_BYTES_MAX
from runtimes.reply_form import HARMONY, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm
from runtimes.reply_parser import calls_in_prompt
from runtimes.tagged_calls import TAGS

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models without a template, or with one that does not compile."""
_PROBE: Final = (
    ChatMessage(role="user", content="u"),
    ChatMessage(
        role="assistant",
        content="",
        # Some templates refuse other ids than such ones.
        tool_calls=(ToolCall(id="abcdefghi", name="f", arguments='{"n7": 1}'),),
    ),
    ChatMessage(role="tool", content="r", name="f", tool_call_id="abcdefghi"),
)


_FUNCTION: Final = Tool(name="n7", parameters='{"type": "object", "properties": {}}')
_EXAMPLES: Final = {
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n"
        "```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{ARGUMENTS}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
}
"""Calls of families whose own templates show calls and results, but no functions: to whom they are
told in the system's turn, as the makers recommend."""
_HARMONY_THOUGHTS: Final = "<|channel|>analysis<|message|>"
_HARMONY_ANSWER: Final = "<|channel|>final<|message|>"


@dataclasses.dataclass(frozen=True, slots=True)
class _Manner:
    """How a template wants calls of earlier turns."""

    family: str = ""
    """A key of `CALL_MARKERS`; empty: it writes them in no form that is known here."""
    as_text: bool = False
    """It takes the text of arguments, as few do, and not the object."""
    no_content: bool = False
    """Where nothing is said beside calls it must be none, and not an empty text."""

    def object_of(self, turn: ChatMessage) -> dict[str, Any]:
        """A turn as the template wants it."""
        written = turn.as_object(self._arguments)
        if self.no_content and turn.tool_calls and not turn.content:
            written["content"] = None
        if self.family == HARMONY and turn.reasoning and not turn.content:
            written["thinking"] = turn.reasoning  # it refuses both
        return written

    def _arguments(self, text: str) -> object:
        """The object that `text` is the JSON of; a model may have written anything else: the text,
        or one parameter where the template goes through them.
        """
        if self.as_text:
            return text
        try:
            value = json.loads(text or "{}")
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        return {"arguments": text} if self.family in TAGS else text


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, and how the text that follows it is to be read."""

    prompt: str
    form: ReplyForm


class ChatTemplate:
    """One model's way of writing conversations down."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        import jinja2.ext  # comes with llama-cpp-python; a worker without chats has no need of it
        import jinja2.sandbox

        # Whitespace and extensions are what published templates are written for.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _format_now
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._errors: tuple[type[Exception], ...] = (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            ArithmeticError,
            LookupError,
            RecursionError,
        )
        self._source = source or PLAIN_TEMPLATE
        try:
            self._template = environment.from_string(self._source)
        except self._errors:
            self._source = PLAIN_TEMPLATE
            self._template = environment.from_string(PLAIN_TEMPLATE)
        self._has_channels = "<|channel|>" in self._source and self._manner.family == HARMONY
        self._marks_thoughts = self._has_channels or any(
            marker in self._source for marker in (THOUGHTS_BEGIN, THOUGHTS_END)
        )

    def render(self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...] = ()) -> Rendered:
        """The prompt for `messages`, up to where the assistant's answer begins, or goes on behind
        the last one.

        Raises RuntimeFailure `bad_request` when the template refuses the conversation (many
        demand that user and assistant take turns) or knows nothing of tools, `context_too_long`
        when it gets too long.
        """
        calls = self._calls_form(messages, tools)
        if tools and calls in _EXAMPLES and not self._shows_functions:
            messages, tools = _with_functions_told(messages, tools, _EXAMPLES[calls]), ()
        last = messages[-1]
        if last.role == "assistant":
            prompt = self._write(messages[:-1], tools, self._manner_for(messages))
            begun = self._begun(last)
        else:
            prompt = self._write(messages, tools, self._manner_for(messages))
            begun = ""
        begin, end = self._thoughts_marks
        opened = prompt.rstrip()
        is_open = opened.endswith(begin)
        if begun:  # it says itself whether anything was thought
            prompt = (opened.removesuffix(begin) if is_open else prompt) + begun
            is_open = begun.rfind(begin) > begun.rfind(end)
        thoughts = "open" if is_open else "" if begun else "may"
        return Rendered(prompt, ReplyForm(calls, thoughts if self._marks_thoughts else ""))

    @property
    def _thoughts_marks(self) -> tuple[str, str]:
        """What stands before and behind thoughts."""
        if self._has_channels:
            return _HARMONY_THOUGHTS, _HARMONY_ANSWER
        return THOUGHTS_BEGIN, THOUGHTS_END

    def _begun(self, message: ChatMessage) -> str:
        """What an assistant has begun to say, as the template marks it."""
        if not self._marks_thoughts:
            return message.content
        if not self._has_channels:
            return _with_thoughts(message)
        thoughts = f"{_HARMONY_THOUGHTS}{message.reasoning}" if message.reasoning else ""
        if not message.content:
            return thoughts
        before = f"{thoughts}<|end|><|start|>assistant" if thoughts else ""
        return f"{before}{_HARMONY_ANSWER}{message.content}"

    def _calls_form(self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...]) -> str:
        """How this model writes calls, where there are tools. Raises RuntimeFailure."""
        has_turns = any(turn.role == "tool" or turn.tool_calls for turn in messages)
        if (tools or has_turns) and "tool" not in self._source:
            raise RuntimeFailure(
                "bad_request",
                "the model's chat template knows nothing of tools; choose a model that was "
                "trained to call them",
            )
        if tools and not self._manner.family:
            raise RuntimeFailure(
                "bad_request",
                "the form in which this model writes calls is not known here; choose one whose "
                "calls are like those of Hermes, Qwen, Llama 3, Mistral, DeepSeek, GLM or gpt-oss",
            )
        if self._has_channels:  # they are there without calls, too
            return HARMONY
        return self._manner.family if tools else ""

    def _manner_for(self, messages: tuple[ChatMessage, ...]) -> _Manner:
        """Found out only where it matters."""
        is_needed = any(turn.tool_calls for turn in messages) or self._has_channels
        return self._manner if is_needed else _Manner()

    @functools.cached_property
    def _manner(self) -> _Manner:
        """Found out by trying: many templates know a marker and write something else behind it."""
        for as_text in (False, True):
            found: list[tuple[int, _Manner]] = []
            for no_content in (False, True):
                manner = _Manner("", as_text, no_content)
                with contextlib.suppress(RuntimeFailure):
                    text = self._write(_PROBE, (), manner)
                    if family := calls_in_prompt(text, "f", {"n7": 1}):
                        found.append((len(text), dataclasses.replace(manner, family=family)))
            if found:
                # The longer text has an empty turn more, or the word None.
                return min(found, key=lambda each: each[0])[1]
        return _Manner()

    @functools.cached_property
    def _shows_functions(self) -> bool:
        """Whether it tells of tools at all."""
        try:
            return _FUNCTION.name in self._write(_PROBE[:1], (_FUNCTION,), _Manner())
        except RuntimeFailure:
            return True  # it wants something of them

    def _write(
        self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...], manner: _Manner
    ) -> str:
        values: dict[str, object] = {
            "messages": [manner.object_of(turn) for turn in messages],
            "add_generation_prompt": True,
            **self._tokens,
        }
        if tools:  # some templates look whether it is defined, and some go through it anyway
            values["tools"] = [tool.as_object() for tool in tools]
        pieces: list[str] = []
        rendered_bytes = 0
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                rendered_bytes += len(piece.encode())
                if rendered_bytes > 2 * PROMPT_BYTES_MAX:
                    raise RuntimeFailure("context_too_long", "the rendered prompt is too long")
        except self._errors as error:
            reason = " ".join(str(error).split())[:300]
            raise RuntimeFailure(
                "bad_request", f"the model's chat template refuses these messages: {reason}"
            ) from error
        return "".join(pieces)


def _with_functions_told(
    messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...], example: str
) -> tuple[ChatMessage, ...]:
    """The system's turn tells of tools, and how one is called."""
    functions = "\n".join(_to_json(tool.as_object()["function"]) for tool in tools)
    told = f"Functions that you can call:\n{functions}\n\nTo call one, write exactly:\n{example}"
    if messages[0].role != "system":
        return (ChatMessage(role="system", content=told), *messages)
    said = f"{messages[0].content}\n\n{told}"
    return (dataclasses.replace(messages[0], content=said), *messages[1:])


def _with_thoughts(message: ChatMessage) -> str:
    """What an assistant has begun to say, its thoughts included; open ones where it said nothing
    yet.
    """
    if not message.reasoning:
        return message.content
    thoughts = f"{THOUGHTS_BEGIN}\n{message.reasoning}"
    return f"{thoughts}\n{THOUGHTS_END}\n\n{message.content}" if message.content else thoughts


def _to_json(
    value: object,
    indent: int | None = None,
    *,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(str(message))


def _format_now(form: str) -> str:
    # Templates write today's date into the prompt: the reader's date, so local time.
    return datetime.datetime.now(tz=datetime.UTC).astimezone().strftime(form)
