"""The one place that reads the turns and tools of a request in the OpenAI dialect. Pure."""

import json
from typing import Annotated

import pydantic
from pydantic_core import PydanticCustomError

from runtimes import limits
from runtimes.base import ChatMessage, Tool, ToolCall


def without_nul(text: str) -> str:
    """`text` as it is, if no C library could take it for shorter."""
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain the character U+0000")
    return text


def _joined_parts(content: object) -> object:
    """A list of text parts as one text; anything else as it is, for the next check to refuse."""
    if not isinstance(content, list):
        return content
    if not content:
        raise PydanticCustomError("empty_content", "must not be an empty list")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise PydanticCustomError("part", "must be a text or a list of parts with a 'type'")
        if kind != "text":
            raise PydanticCustomError(
                "unsupported",
                "has a part of type '{kind}', which is not supported; only 'text' parts are",
                {"kind": kind[:64]},
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("part", "has a part of type 'text' without its 'text'")
        texts.append(part["text"])
    return "\n".join(texts)


def schema_text(schema: object) -> str | None:
    """A JSON schema, which is an object, as JSON text."""
    if schema is None:
        return None
    if not isinstance(schema, dict):
        raise PydanticCustomError("schema", "must be a JSON schema, which is an object")
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > limits.GRAMMAR_CHARACTERS_MAX:
        raise PydanticCustomError(
            "schema",
            "has more than {most} characters",
            {"most": limits.GRAMMAR_CHARACTERS_MAX},
        )
    return text


def _supported_role(role: str) -> str:
    if role == "function":
        raise PydanticCustomError("unsupported", "is not supported; use 'tool'")
    return role


def _content_of_turn(content: str | None, info: pydantic.ValidationInfo) -> str:
    """Only who calls a function need say nothing."""
    if content is None and not info.data.get("tool_calls"):
        raise PydanticCustomError("missing", "is missing")
    return content or ""


def _only_assistants(calls: object, info: pydantic.ValidationInfo) -> object:
    if calls and info.data.get("role") != "assistant":
        raise PydanticCustomError("calls", "belongs to messages of the role 'assistant'")
    return calls


def _answers_a_call(call_id: str | None, info: pydantic.ValidationInfo) -> str | None:
    if not call_id and info.data.get("role") == "tool":
        raise PydanticCustomError("missing", "is missing")
    return call_id


def _function_only(kind: str) -> str:
    if kind != "function":
        raise PydanticCustomError("unsupported", "must be 'function'; others are not supported")
    return kind


def _not_the_old_way(call: object) -> None:
    if call is not None:
        raise PydanticCustomError("unsupported", "is not supported; use 'tool_calls'")


def _parameters_text(schema: object) -> str:
    """Without a schema a function takes nothing that anybody knows of."""
    return schema_text(schema or None) or '{"type": "object", "properties": {}}'


BODY_CONFIG = pydantic.ConfigDict(
    strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
)
Text = Annotated[str, pydantic.AfterValidator(without_nul)]
Content = Annotated[Text, pydantic.BeforeValidator(_joined_parts)]
Role = Annotated[
    str,
    pydantic.Field(pattern=r"^[a-z][a-z_]{0,31}$"),
    pydantic.AfterValidator(_supported_role),
]
FunctionType = Annotated[str, pydantic.AfterValidator(_function_only)]
FunctionName = Annotated[
    Text, pydantic.Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=limits.NAME_CHARACTERS_MAX)
]
CalledName = Annotated[Text, pydantic.Field(min_length=1, max_length=limits.NAME_CHARACTERS_MAX)]
CallId = Annotated[Text, pydantic.Field(max_length=limits.CALL_ID_CHARACTERS_MAX)]


class CalledFunction(pydantic.BaseModel):
    """What was called in an earlier turn."""

    model_config = BODY_CONFIG
    name: CalledName
    arguments: Text | None = None


class Call(pydantic.BaseModel):
    """One call of an earlier turn."""

    model_config = BODY_CONFIG
    id: CallId
    type: FunctionType = "function"
    function: CalledFunction


class Function(pydantic.BaseModel):
    """What may be called."""

    model_config = BODY_CONFIG
    name: FunctionName
    description: Text | None = None
    parameters: Annotated[str, pydantic.BeforeValidator(_parameters_text)] = pydantic.Field(
        default=None, validate_default=True
    )


class ToolBody(pydantic.BaseModel):
    """One of `tools`."""

    model_config = BODY_CONFIG
    type: FunctionType
    function: Function

    def tool(self) -> Tool:
        """As runtimes know it."""
        function = self.function
        return Tool(
            name=function.name,
            description=function.description or "",
            parameters=function.parameters,
        )


class Message(pydantic.BaseModel):
    """One turn as the client sends it."""

    model_config = BODY_CONFIG
    role: Role
    # Before the content, which may be null beside them.
    tool_calls: Annotated[
        list[Call] | None,
        pydantic.Field(max_length=limits.CALLS_MAX),
        pydantic.AfterValidator(_only_assistants),
    ] = None
    function_call: Annotated[object, pydantic.AfterValidator(_not_the_old_way)] = None
    tool_call_id: Annotated[CallId | None, pydantic.AfterValidator(_answers_a_call)] = (
        pydantic.Field(default=None, validate_default=True)
    )
    name: Annotated[Text, pydantic.Field(max_length=limits.NAME_CHARACTERS_MAX)] | None = None
    reasoning_content: Text | None = None
    content: Annotated[Content | None, pydantic.AfterValidator(_content_of_turn)] = pydantic.Field(
        default=None, validate_default=True
    )

    def turn(self) -> ChatMessage:
        """As runtimes know it. What does not belong to its role is left out."""
        is_result = self.role == "tool"
        return ChatMessage(
            # `developer` is the dialect's newer word for what chat templates call `system`.
            role="system" if self.role == "developer" else self.role,
            content=self.content or "",
            reasoning=(self.reasoning_content or "") if self.role == "assistant" else "",
            name=(self.name or "") if is_result else "",
            tool_call_id=(self.tool_call_id or "") if is_result else "",
            tool_calls=tuple(
                ToolCall(
                    id=call.id, name=call.function.name, arguments=call.function.arguments or ""
                )
                for call in self.tool_calls or ()
            ),
        )
