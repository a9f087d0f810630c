"""The one place that turns a conversation into a prompt, with the model's own Jinja template.

A template is a program from the model file, which came from anywhere: it runs in jinja2's
sandbox and inside the worker process, so the worst it can do is to cost that process its life.
"""

import datetime
import json
from typing import NoReturn

from runtimes.base import ChatMessage, RuntimeFailure
from runtimes.limits import PROMPT_BYTES_MAX

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models without a template, or with one that does not compile."""


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
        try:
            self._template = environment.from_string(source or PLAIN_TEMPLATE)
        except self._errors:
            self._template = environment.from_string(PLAIN_TEMPLATE)

    def render(self, messages: tuple[ChatMessage, ...]) -> str:
        """The prompt for `messages`, up to where the assistant's answer begins.

        Raises RuntimeFailure `bad_request` when the template refuses the conversation (many
        demand that user and assistant take turns), `context_too_long` when it gets too long.
        """
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        pieces: list[str] = []
        rendered_bytes = 0
        try:
            for piece in self._template.generate(
                messages=turns, add_generation_prompt=True, **self._tokens
            ):
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


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: object) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(str(message))


def _format_now(form: str) -> str:
    # Templates write today's date into the prompt: the reader's date, so local time.
    return datetime.datetime.now(tz=datetime.UTC).astimezone().strftime(form)
