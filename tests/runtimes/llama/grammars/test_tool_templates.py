"""Tools, calls, thoughts and unfinished answers reach the model in its own manner."""

import dataclasses
import json

import pytest

from runtimes.base import ChatMessage, RuntimeFailure, Tool, ToolCall
from runtimes.reply_form import HARMONY, PLAIN, ReplyForm
from tests.helpers import tool_templates
from tests.runtimes.serving import needs_llama

pytestmark = [pytest.mark.llama, needs_llama]

LOOK = Tool(
    name="look",
    description="Looks.",
    parameters='{"type": "object", "properties": {"at": {"type": "string"}}}',
)
ASKED = (ChatMessage(role="user", content="Where?"),)
CALL = ToolCall(id="abc123def", name="look", arguments='{"at":"é"}')
TURNS = (
    *ASKED,
    ChatMessage(role="assistant", content="", tool_calls=(CALL,)),
    ChatMessage(role="tool", content="There.", tool_call_id="abc123def", name="look"),
)

WRITTEN = {
    "deepseek": 'function<｜tool▁sep｜>look\n```json\n{"at":"é"}\n```<｜tool▁call▁end｜>',
    "deepseek_v31": '<｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at":"é"}<｜tool▁call▁end｜>',
    "qwen_coder": "<function=look>\n<parameter=at>\né\n</parameter>\n</function>",
    "glm": "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>é</arg_value>\n</tool_call>",
    HARMONY: 'to=functions.look<|channel|>commentary json<|message|>{"at": "é"}<|call|>',
}
"""The call, where it is not an object behind a name."""


def render(
    source: str | None, messages: tuple[ChatMessage, ...] = ASKED, tools: tuple[Tool, ...] = (LOOK,)
) -> tuple[str, ReplyForm]:
    """Prompt and form."""
    from runtimes.llama.engine.chat_template import (
        ChatTemplate,  # needs jinja2, which the extra brings
    )

    rendered = ChatTemplate(source, bos="<s>", eos="</s>").render(messages, tools)
    return rendered.prompt, rendered.form


@pytest.mark.parametrize("family", tool_templates.BY_FAMILY)
def test_each_family_is_recognised_and_sees_tools_and_turns(family: str) -> None:
    """The function with its schema, the call as the family writes it, the result."""
    prompt, form = render(tool_templates.BY_FAMILY[family], TURNS)
    assert form == ReplyForm(family, "may" if family == HARMONY else "")
    assert '"description": "Looks."' in prompt
    assert '"type": "string"' in prompt
    assert WRITTEN.get(family, '{"at": "é"}') in prompt
    assert "There." in prompt


@pytest.mark.parametrize("family", tool_templates.BY_FAMILY)
def test_without_tools_there_is_no_trace_of_them(family: str) -> None:
    """Nothing is told of functions, and no call is looked for in the answer."""
    prompt, form = render(tool_templates.BY_FAMILY[family], tools=())
    assert "unctions" not in prompt
    assert "TOOLS" not in prompt
    assert form == (ReplyForm(HARMONY, "may") if family == HARMONY else PLAIN)


def test_arguments_are_a_text_where_the_template_joins_texts() -> None:
    """Found out by trying."""
    source = (
        "{% for m in messages %}{% for c in m.tool_calls %}"
        "{{ '<tool_call>{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' }}"
        "{{ c['function']['arguments'] + '}' }}{% endfor %}{% endfor %}"
    )
    prompt, form = render(source, TURNS)
    assert prompt == '<tool_call>{"name": "look", "arguments": {"at":"é"}}'
    assert form == ReplyForm("hermes")


@pytest.mark.parametrize("family", tool_templates.BY_FAMILY)
def test_several_turns_of_calls_are_written(family: str) -> None:
    """Two rounds of them, with thoughts and words, without arguments, and what is no JSON."""
    rounds = [("{}", "", "hm"), ('{"at": ', "I look.", "hm"), ('{"n": [1, {"a": null}]}', "", "")]
    turns = [*ASKED]
    for arguments, content, reasoning in rounds:
        call = dataclasses.replace(CALL, arguments=arguments)
        turns += [
            ChatMessage(role="assistant", content=content, reasoning=reasoning, tool_calls=(call,)),
            TURNS[-1],
        ]
    prompt, _ = render(tool_templates.BY_FAMILY[family], tuple(turns))
    assert prompt.count("There.") == 3
    assert '"at' in prompt
    assert '[1, {"a": null}]' in prompt


@pytest.mark.parametrize("family", ["deepseek", "deepseek_v31"])
def test_functions_are_told_where_the_template_tells_of_none(family: str) -> None:
    """Behind what the system's turn says, with how a call is written."""
    system = ChatMessage(role="system", content="Be brief.")
    prompt, form = render(tool_templates.BY_FAMILY[family], (system, *ASKED))
    assert form.calls == family
    assert prompt.startswith("<s>Be brief.\n\nFunctions")
    assert "<｜tool▁calls▁begin｜>" in prompt
    telling = tool_templates.BY_FAMILY[family].replace(
        "{{- bos_token }}", "{{- (tools or []) | tojson }}"
    )
    assert '"description": "Looks."' in render(telling)[0]
    assert "Functions" not in render(telling)[0]


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("{% if m.content is not none %}[{{ m.content }}]{% endif %}", ""),
        ("[{{ m.content }}]", "[]"),
        ("{{ '[' + m.content + ']' }}", "[]"),
    ],
)
def test_where_nothing_is_said_beside_a_call_nothing_is_written(content: str, written: str) -> None:
    """No empty turn, and no word None."""
    source = (
        "{% for m in messages if m.tool_calls %}"
        '<tool_call>{"name": "f", "arguments": {{ m.tool_calls[0].function.arguments | tojson }}}'
        "</tool_call>" + content + "{% endfor %}"
    ).replace('"f"', '"{{ m.tool_calls[0].function.name }}"')
    assert render(source, TURNS)[0].endswith("</tool_call>" + written)


def test_thoughts_before_a_call_are_told_again_in_harmony() -> None:
    """Where nothing was said besides: its template takes one of both."""
    for content, told in (("", "hm"), ("I look.", "I look.")):
        turn = dataclasses.replace(TURNS[1], content=content, reasoning="hm")
        prompt, _ = render(tool_templates.HARMONY, (TURNS[0], turn, TURNS[2]))
        assert f"<|channel|>analysis<|message|>{told}<|end|>" in prompt


def test_arguments_that_are_no_object_stay_the_text_that_they_are() -> None:
    """What a model once wrote is never a reason to refuse the conversation."""
    call = ToolCall(id="abc123def", name="look", arguments='{"at": ')
    turns = (*ASKED, ChatMessage(role="assistant", content="", tool_calls=(call,)), TURNS[-1])
    assert json.dumps('{"at": ') in render(tool_templates.HERMES, turns)[0]


@pytest.mark.parametrize("messages", [ASKED, TURNS])
def test_a_model_without_tools_says_so(messages: tuple[ChatMessage, ...]) -> None:
    """One line that says the mend; a template that drops tools would be a silent loss."""
    with pytest.raises(RuntimeFailure, match="knows nothing of tools") as failed:
        render(None, messages, (LOOK,) if messages == ASKED else ())
    assert failed.value.code == "bad_request"


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call><function={{ call.name }}>{{ call.arguments | tojson }}",
        "<tool_call>{{ call.name }}<arg>{{ call.arguments | tojson }}",
        '<|start_header_id|>ipython<|end_header_id|>call {"name": {{ call | tojson }}',
        "{{ call.nothing.there }}",
    ],
)
def test_a_family_that_is_not_known_says_so(call: str) -> None:
    """Its calls would come as text that no client takes for calls, whatever marks them."""
    source = "{% for m in messages %}{% for c in m.tool_calls %}{% set call = c.function %}"
    with pytest.raises(RuntimeFailure, match="Hermes"):
        render(source + call + "{% endfor %}{% endfor %}")


def test_parameters_that_are_no_schema_are_refused() -> None:
    """By the function's name."""
    for parameters in ("", "[", "[]", "5", "[" * 9999):
        with pytest.raises(RuntimeFailure, match="'f'"):
            render(tool_templates.HERMES, tools=(Tool(name="f", parameters=parameters),))


@pytest.mark.parametrize(
    ("source", "thoughts"),
    [
        (tool_templates.HERMES, ""),
        (tool_templates.THINKING, "open"),
        ("{{ messages[0].content.split('</think>')[-1] }}A:", "may"),
    ],
)
def test_the_template_says_where_thoughts_are(source: str, thoughts: str) -> None:
    """Not at all, in the text, or opened by the prompt."""
    lying = (ChatMessage(role="user", content="<think>"), *ASKED)
    for messages in (ASKED, lying):
        assert render(source, messages, tools=())[1].thoughts == thoughts


def answer_begun(content: str, reasoning: str = "") -> tuple[ChatMessage, ...]:
    """A question and the beginning of its answer."""
    return (*ASKED, ChatMessage(role="assistant", content=content, reasoning=reasoning))


@pytest.mark.parametrize(
    ("source", "messages", "end", "thoughts"),
    [
        (tool_templates.HERMES, answer_begun("It is "), "assistant\nIt is ", ""),
        (tool_templates.HERMES, answer_begun("It is ", "hm"), "assistant\nIt is ", ""),
        (tool_templates.THINKING, answer_begun("It is "), "assistant\nIt is ", ""),
        (
            tool_templates.THINKING,
            answer_begun("It is ", "hm"),
            "assistant\n<think>\nhm\n</think>\n\nIt is ",
            "",
        ),
        (tool_templates.THINKING, answer_begun("", "hm"), "assistant\n<think>\nhm", "open"),
        (tool_templates.THINKING, answer_begun("<think>hm"), "assistant\n<think>hm", "open"),
        (tool_templates.THINKING, answer_begun(""), "assistant\n<think>\n", "open"),
        (
            tool_templates.HARMONY,
            answer_begun("It is "),
            "assistant<|channel|>final<|message|>It is ",
            "",
        ),
        (
            tool_templates.HARMONY,
            answer_begun("It is ", "hm"),
            (
                "assistant<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
                "<|channel|>final<|message|>It is "
            ),
            "",
        ),
        (
            tool_templates.HARMONY,
            answer_begun("", "hm"),
            "assistant<|channel|>analysis<|message|>hm",
            "open",
        ),
        (tool_templates.HARMONY, answer_begun(""), "assistant", "may"),
    ],
)
def test_an_answer_that_has_begun_is_gone_on_with(
    source: str, messages: tuple[ChatMessage, ...], end: str, thoughts: str
) -> None:
    """Its turn is not closed, and no second one is opened."""
    prompt, form = render(source, messages)
    assert prompt.removesuffix(end).endswith(("<|im_start|>", "<|start|>"))
    assert form.thoughts == thoughts
