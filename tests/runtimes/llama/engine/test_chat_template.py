"""Conversations become prompts, by templates that nobody trusts."""

import pytest

from runtimes.base import ChatMessage, RuntimeFailure
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

TALK = (
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="{{ 7 * 7 }} <b>"),
)


def render(source: str | None, messages: tuple[ChatMessage, ...] = TALK) -> str:
    """What a template makes of a conversation."""
    from runtimes.llama.engine.chat_template import (
        ChatTemplate,  # needs jinja2, which the extra brings
    )

    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages).prompt


def test_a_template_sees_turns_and_special_tokens() -> None:
    """Roles, contents, bos and eos, the generation prompt; content is data, not a template."""
    source = (
        "{{ bos_token }}{% for m in messages %}\n    [{{ m['role'] }}] {{ m.content }}"
        "{{ eos_token }}"
        "{% endfor %}\n{% if add_generation_prompt %}>{% endif %}"
    )
    assert render(source) == "<s>    [system] Be brief.</s>    [user] {{ 7 * 7 }} <b></s>>"


@pytest.mark.parametrize("source", [None, "", "{% for %}", "{{ ", "{{ messages | nosuchfilter }}"])
def test_without_a_usable_template_the_plain_one_serves(source: str | None) -> None:
    """No template, or one that does not compile: names and colons."""
    assert render(source) == "system: Be brief.\nuser: {{ 7 * 7 }} <b>\nassistant:"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[5].content.nothing.there }}",
        "{{ 1 // 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ strftime_now(3) }}",
    ],
)
def test_a_template_that_refuses_is_a_bad_request(source: str) -> None:
    """Refusals, mistakes and attacks on the sandbox end the request, with one line."""
    with pytest.raises(RuntimeFailure) as failed:
        render(source)
    assert failed.value.code == "bad_request"
    assert "\n" not in failed.value.message


def test_a_template_that_never_stops_writing_is_stopped() -> None:
    """Output is bounded."""
    source = "{% for i in range(90000) %}{% for j in range(90000) %}" + "x" * 999 + "{% endfor %}"
    with pytest.raises(RuntimeFailure) as failed:
        render(source + "{% endfor %}")
    assert failed.value.code == "context_too_long"


def test_what_published_templates_use_is_there() -> None:
    """Loop controls, tojson without escapes, today's date, namespaces."""
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% if loop.first %}{% continue %}{% endif %}"
        "{{ m.content | tojson }}{% break %}{% endfor %}"
        "{{ ns.n }}{{ strftime_now('%Y') | length }}"
    )
    assert render(source) == '"{{ 7 * 7 }} <b>"24'
