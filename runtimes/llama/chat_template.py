"""The one place that turns a conversation into a prompt, with the model's own Jinja template.

A template is a program from the model file, which came from anywhere: it runs in jinja2's
sandbox and inside the worker process, so the worst it can do is to cost that process its life.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
from typing import Final, NoReturn

from runtimes.base import ChatMessage, RuntimeFailure, Tool, ToolCall
from runtimes.limits import PROMPT_BYTES_MAX
from runtimes.reply_form import THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm
from runtimes.reply_parser import calls_in_prompt

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
        self._marks_thoughts = THOUGHTS_END in self._source or THOUGHTS_BEGIN in self._source

    def render(self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...] = ()) -> Rendered:
        """The prompt for `messages`, up to where the assistant's answer begins, or goes on behind
        the last one.

        Raises RuntimeFailure `bad_request` when the template refuses the conversation (many
        demand that user and assistant take turns) or knows nothing of tools, `context_too_long`
        when it gets too long.
        """
        calls = self._calls_form(messages, tools)
        as_text = any(turn.tool_calls for turn in messages) and self._manner[1]
        last = messages[-1]
        if last.role == "assistant":
            prompt = self._write(messages[:-1], tools, as_text=as_text)
            begun = _with_thoughts(last) if self._marks_thoughts else last.content
        else:
            prompt = self._write(messages, tools, as_text=as_text)
            begun = ""
        opened = prompt.rstrip()
        is_open = opened.endswith(THOUGHTS_BEGIN)
        if begun:  # it says itself whether anything was thought
            prompt = (opened.removesuffix(THOUGHTS_BEGIN) if is_open else prompt) + begun
            is_open = begun.rfind(THOUGHTS_BEGIN) > begun.rfind(THOUGHTS_END)
        thoughts = "open" if is_open else "" if begun else "may"
        return Rendered(prompt, ReplyForm(calls, thoughts if self._marks_thoughts else ""))

    def _calls_form(self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...]) -> str:
        """How this model writes calls, where there are tools. Raises RuntimeFailure."""
        has_turns = any(turn.role == "tool" or turn.tool_calls for turn in messages)
        if (tools or has_turns) and "tool" not in self._source:
            raise RuntimeFailure(
                "bad_request",
                "the model's chat template knows nothing of tools; choose a model that was "
                "trained to call them",
            )
        if tools and not self._manner[0]:
            raise RuntimeFailure(
                "bad_request",
                "the form in which this model writes calls is not known here; choose one whose "
                "calls are like those of Hermes, Qwen, Llama 3 or Mistral",
            )
        return self._manner[0] if tools else ""

    @functools.cached_property
    def _manner(self) -> tuple[str, bool]:
        """How it writes a call, and whether it takes the text of arguments, as few do, and not the
        object. Found out by trying: many templates know a marker and write something else behind
        it.
        """
        for as_text in (False, True):
            with contextlib.suppress(RuntimeFailure):
                text = self._write(_PROBE, (), as_text=as_text)
                if '"n7"' in text:
                    return calls_in_prompt(text, "f"), as_text
        return "", False

    def _write(
        self, messages: tuple[ChatMessage, ...], tools: tuple[Tool, ...], *, as_text: bool
    ) -> str:
        values: dict[str, object] = {
            "messages": [turn.as_object(str if as_text else _object_in) for turn in messages],
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


def _object_in(text: str) -> object:
    """The object that `text` is the JSON of; a model may have written anything else: the text."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


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
