"""The one place that reads the turns and tools of a request in the OpenAI dialect. Pure."""

import json
from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

from meshd.gateway.openai_content import Content, read_content, without_nul
from runtimes import limits
from runtimes.base import ChatMessage, Tool, ToolCall
from runtimes.images import Image


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


def _content_of_turn(content: object, info: pydantic.ValidationInfo) -> Content:
    """Only who calls a function need say nothing, and only users show images."""
    read = read_content(content)
    if read is None and not info.data.get("tool_calls"):
        raise PydanticCustomError("missing", "is missing")
    if read is not None and read.images and info.data.get("role") != "user":
        raise PydanticCustomError("image", "has an image; only those of the role 'user' can")
    return read or Content()


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
    content: Annotated[Any, pydantic.AfterValidator(_content_of_turn)] = pydantic.Field(
        default=None, validate_default=True
    )

    def images(self, message: int) -> tuple[Image, ...]:
        """What it shows; `message`: its place among all, from 0."""
        return tuple(Image(data, message, at) for at, data in self.content.images)

    def turn(self) -> ChatMessage:
        """As runtimes know it. What does not belong to its role is left out."""
        is_result = self.role == "tool"
        return ChatMessage(
            # `developer` is the dialect's newer word for what chat templates call `system`.
            role="system" if self.role == "developer" else self.role,
            content=self.content.text,
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
