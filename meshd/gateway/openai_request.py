"""The one place that reads request bodies of the OpenAI dialect. Pure: bytes in, request out.

Every field is checked for type and bounds; what is unknown is ignored, as OpenAI's server does;
what would change the meaning of the answer and is not there yet is refused by name. Bytes come
from anywhere: pydantic's parser bounds depth and numbers and refuses what is not UTF-8, and
`_check_density` bounds how many values a body may hold, for each costs far more memory than text.
"""

import dataclasses
import itertools
import re
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails, PydanticCustomError

from meshd.gateway.errors import Refusal
from meshd.gateway.generate_call import GenerateCall
from meshd.gateway.openai_turns import BODY_CONFIG, Message, Text, ToolBody, schema_text
from runtimes import limits
from runtimes.base import GenerateRequest, Tool

VALUES_MAX = 200_000
"""Strings, commas and opening brackets in one body."""
MESSAGES_MAX = 4096
STOPS_MAX = 16
CHOICES_MAX = 8
"""Answers to one request; each is a request of its own to the mesh."""

Body = TypeVar("Body", bound=pydantic.BaseModel)

# Whole strings (an unfinished one reaches to the end: linear time for any bytes) and separators.
_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)

# Values that ask for nothing; absent and null are harmless everywhere.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "web_search_options": (),
}


def _schema_of_format(form: object) -> str | None:
    """The JSON schema that a `response_format` demands; None for plain text."""
    if form is None:
        return None
    fields = form if isinstance(form, dict) else {}
    match fields.get("type"):
        case "text":
            return None
        case "json_object":
            # llama-server's dialect has a schema here, OpenAI's has not.
            return schema_text(fields.get("schema") or {"type": "object"})
        case "json_schema":
            described = fields.get("json_schema")
            schema = described.get("schema") if isinstance(described, dict) else None
            if schema is None:
                raise PydanticCustomError("schema", "must have its schema in 'json_schema.schema'")
            return schema_text(schema)
        case _:
            raise PydanticCustomError(
                "format", "must have the type 'text', 'json_object' or 'json_schema'"
            )


def _biases(named: object) -> object:
    """OpenAI's object of token ids and biases as pairs; a wrong id is left for the next check."""
    if named is None or isinstance(named, list):
        return named or ()
    if not isinstance(named, dict):
        raise PydanticCustomError("bias", "must be an object of token ids and numbers")
    if len(named) > limits.BIASES_MAX:
        raise PydanticCustomError(
            "bias", "names more than {most} tokens", {"most": limits.BIASES_MAX}
        )
    pairs = []
    for token, bias in named.items():
        if not (token.isascii() and token.isdecimal() and len(token) <= 10):
            raise PydanticCustomError("bias", "must name tokens by their ids")
        if type(bias) not in (int, float) or not abs(bias) <= limits.BIAS_MAX:
            raise PydanticCustomError("bias", "must have numbers from -100 to 100")
        pairs.append((int(token), float(bias)))
    if any(token > limits.TOKENS_MAX for token, _ in pairs):
        raise PydanticCustomError("bias", "must name tokens by their ids")
    return pairs


def _of_different_names(tools: list[ToolBody]) -> list[ToolBody]:
    if len({tool.function.name for tool in tools}) < len(tools):
        raise PydanticCustomError("tools", "has two functions of the same name")
    return tools


def _answerable(messages: list[Message]) -> list[Message]:
    if messages[-1].tool_calls:
        raise PydanticCustomError("calls", "must not end with calls, but with their results")
    return messages


def _choice(choice: object) -> object:
    if choice is None or choice in ("none", "auto", "required"):
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise PydanticCustomError("choice", "must be 'none', 'auto', 'required' or name a function")
    return choice


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else [] if stop is None else stop


def _unless_harmless(value: object, info: pydantic.ValidationInfo) -> None:
    assert info.field_name is not None
    if value is not None and value not in _HARMLESS.get(info.field_name, ([],)):
        raise PydanticCustomError("unsupported", "is not supported yet; leave it out")


Name = Annotated[Text, pydantic.Field(min_length=1, max_length=256)]
Stop = Annotated[Text, pydantic.Field(min_length=1, max_length=1024)]
Tokens = Annotated[int, pydantic.Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Penalty = Annotated[float, pydantic.Field(ge=-limits.PENALTY_MAX, le=limits.PENALTY_MAX)]
GrammarText = Annotated[Text, pydantic.Field(max_length=limits.GRAMMAR_CHARACTERS_MAX)]
Schema = Annotated[str | None, pydantic.BeforeValidator(schema_text)]
Format = Annotated[str | None, pydantic.BeforeValidator(_schema_of_format)]
Biases = Annotated[Any, pydantic.BeforeValidator(_biases)]
Unsupported = Annotated[Any, pydantic.AfterValidator(_unless_harmless)]


class StreamOptions(pydantic.BaseModel):
    """What a streamed answer has in addition."""

    model_config = BODY_CONFIG
    include_usage: bool | None = None


class GenerateBody(pydantic.BaseModel):
    """What chats and completions ask for in the same words."""

    model_config = BODY_CONFIG
    model: Name
    max_tokens: Tokens | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, pydantic.Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    seed: Annotated[int, pydantic.Field(ge=-(2**63), le=2**63 - 1)] | None = None

    @pydantic.field_validator("seed", mode="after")
    @classmethod
    def _fold_seed(cls, seed: int | None) -> int | None:
        """Clients may count below zero; runtimes do not. Seeds of ordinary size stay different."""
        return seed if seed is None or seed >= 0 else seed + 2**63

    stop: Annotated[
        list[Stop],
        pydantic.FailFast(),
        pydantic.Field(max_length=STOPS_MAX),
        pydantic.BeforeValidator(_listed),
    ] = []
    stop_token_ids: Annotated[
        list[Annotated[int, pydantic.Field(ge=0, le=limits.TOKENS_MAX)]],
        pydantic.FailFast(),
        pydantic.Field(max_length=limits.STOP_TOKENS_MAX),
        pydantic.BeforeValidator(_listed),
    ] = []
    typical_p: Share | None = None
    repeat_penalty: Annotated[float, pydantic.Field(gt=0, le=limits.REPEAT_PENALTY_MAX)] | None = (
        None
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases = ()
    response_format: Format = None
    json_schema: Schema = None
    grammar: GrammarText | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, pydantic.Field(ge=1, le=CHOICES_MAX)] | None = None
    user: str | None = None


class ChatBody(GenerateBody):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[
        list[Message],
        pydantic.FailFast(),
        pydantic.Field(min_length=1, max_length=MESSAGES_MAX),
        pydantic.AfterValidator(_answerable),
    ]
    max_completion_tokens: Tokens | None = None
    tools: Annotated[
        list[ToolBody],
        pydantic.FailFast(),
        pydantic.Field(max_length=limits.TOOLS_MAX),
        pydantic.AfterValidator(_of_different_names),
        pydantic.BeforeValidator(_listed),
    ] = []
    tool_choice: Annotated[Any, pydantic.AfterValidator(_choice)] = None
    parallel_tool_calls: bool | None = None
    functions: Unsupported = None
    function_call: Unsupported = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, pydantic.Field(ge=0, le=limits.LOGPROBS_MAX)] | None = None
    audio: Unsupported = None
    modalities: Unsupported = None
    web_search_options: Unsupported = None


def read_body(kind: type[Body], body: bytes | bytearray) -> Body:
    """A body of this kind. Raises Refusal, whatever the bytes are."""
    _check_density(body)
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _refusal(first) from None


def parse_chat(body: bytes | bytearray) -> GenerateCall:
    """Read the body of a chat request. Raises Refusal, whatever the bytes are."""
    parsed = read_body(ChatBody, body)
    if parsed.top_logprobs and not parsed.logprobs:
        raise Refusal(
            "bad_request", "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )
    if parsed.tools and parsed.grammar:
        raise Refusal("bad_request", "Give only one of 'tools' and 'grammar'.", param="grammar")
    return call_of(parsed, _request(parsed))


def call_of(parsed: GenerateBody, request: GenerateRequest) -> GenerateCall:
    """What a body comes to whose own part `request` has. Raises Refusal."""
    demands = [parsed.grammar or None, parsed.json_schema, parsed.response_format]
    if sum(demand is not None for demand in demands) > 1:
        raise Refusal(
            "bad_request",
            "Give only one of 'response_format', 'json_schema' and 'grammar'.",
            param="response_format" if parsed.response_format else "grammar",
        )
    options = parsed.stream_options
    return GenerateCall(
        requests=_choices(_sampled(parsed, request), parsed.n or 1),
        stream=bool(parsed.stream),
        with_usage=options is not None and bool(options.include_usage),
        user=parsed.user,
    )


def _sampled(body: GenerateBody, request: GenerateRequest) -> GenerateRequest:
    sampling = {
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "ignore_eos"),
        *("repeat_penalty", "presence_penalty", "frequency_penalty"),
    }
    return dataclasses.replace(
        request,
        stop=tuple(body.stop),
        stop_token_ids=tuple(body.stop_token_ids),
        logit_bias=tuple(body.logit_bias),
        grammar=body.grammar or None,
        json_schema=body.response_format or body.json_schema,
        # What is absent or null keeps the request's own default.
        **body.model_dump(include=sampling, exclude_none=True),
    )


def _request(body: ChatBody) -> GenerateRequest:
    max_tokens = body.max_completion_tokens
    return GenerateRequest(
        model=body.model,
        messages=tuple(message.turn() for message in body.messages),
        images=tuple(
            image for at, message in enumerate(body.messages) for image in message.images(at)
        ),
        tools=_tools(body),
        must_call=body.tool_choice not in (None, "none", "auto"),
        parallel_calls=body.parallel_tool_calls is not False,
        with_markers=True,
        max_tokens=body.max_tokens if max_tokens is None else max_tokens,
        logprobs=body.top_logprobs or 0 if body.logprobs else None,
    )


def _choices(request: GenerateRequest, count: int) -> tuple[GenerateRequest, ...]:
    seed = request.seed
    if seed is None:  # each draws its own
        return (request,) * count
    seeds = ((seed + index) % (limits.SEED_MAX + 1) for index in range(count))
    return tuple(dataclasses.replace(request, seed=each) for each in seeds)


def _tools(body: ChatBody) -> tuple[Tool, ...]:
    """What the model is to know of: nothing where it must not call, else the one that it must.

    Raises Refusal for a choice that there is not.
    """
    tools, choice = body.tools, body.tool_choice
    if choice == "none":
        return ()
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool.function.name == choice["function"]["name"]]
    if not tools and choice not in (None, "auto"):
        raise Refusal(
            "bad_request", "'tool_choice' demands what 'tools' has not.", param="tool_choice"
        )
    return tuple(tool.tool() for tool in tools)


def _refusal(error: ErrorDetails) -> Refusal:
    kind, reason = error["type"], error["msg"]
    if kind == "json_invalid":
        reason = reason.removeprefix("Invalid JSON: ")
        return Refusal("invalid_json", f"The body is not valid JSON: {reason}.")
    param = _param(error["loc"])
    if param is None:
        return Refusal("bad_request", "The body must be a JSON object.")
    if kind == "missing":
        return Refusal("bad_request", f"'{param}' is missing.", param=param)
    code = "unsupported" if kind == "unsupported" else "bad_request"
    return Refusal(code, f"Invalid '{param}': {reason}.", param=param)


def _param(location: tuple[int | str, ...]) -> str | None:
    """`messages[0].content` for the place in the body; None for the body itself."""
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return param.lstrip(".") or None


def _check_density(body: bytes | bytearray) -> None:
    # Counting bytes is fast and nearly always enough; a body with much text is looked at closely.
    if sum(body.count(mark) for mark in (b'"', b",", b"[", b"{")) <= VALUES_MAX:
        return
    if sum(1 for _ in itertools.islice(_VALUE.finditer(body), VALUES_MAX + 1)) > VALUES_MAX:
        raise Refusal("bad_request", f"The body holds more than {VALUES_MAX} JSON values.")
