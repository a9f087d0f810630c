"""The one place for the grammar of calls that have a tag for each parameter. Pure.

A value that is a string by its schema is bare text up to its end tag, every other one is JSON, in
which no `<` stands: the tag of an end is nowhere inside.
"""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from runtimes.base import RuntimeFailure
from runtimes.llama.grammars.json_schema import FORMATS, SchemaRules, parsed, quoted, times
from runtimes.llama.grammars.up_to import add_up_to, letters_but
from runtimes.parameter_kinds import TEXT, parameter_kinds, target_of
from runtimes.tagged_calls import TAGS

ANY_KEY = "[A-Za-z0-9_.-]{1,64}"
_CHAR = r'[^"\\<\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})'
_NOT_OF_PARAMETERS = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
_TAGS_AROUND = {
    "qwen_coder": ('"<parameter=" {} ">\\n"', "\n</parameter>", '"\\n"'),
    "glm": ('"<arg_key>" {} "</arg_key>" "\\n"? "<arg_value>"', "</arg_value>", '"\\n"?'),
}
"""Before a value, with its key; its end; what follows."""


def add_parameters(rules: dict[str, str], family: str, text: str) -> str:
    """Add the rules of a call's values by the schema in `text`; return what stands for them.

    Raises RuntimeFailure `bad_request` as `add_schema` does, and for what has no such form.
    """
    schema = parsed(text)
    SchemaRules(schema, {}).add()  # what no grammar can promise is refused there
    if (
        not isinstance(schema, dict)
        or any(keyword in schema for keyword in _NOT_OF_PARAMETERS)
        or "object" not in schema.get("type", "object")
    ):
        _refuse("it must name parameters in 'properties'")
    # Not in `text`, which may have it with escapes.
    try:
        written_out = json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        _refuse("it is too deep")
    if TAGS[family].value_end in written_out:
        _refuse("it has an end tag of the form in which this model writes calls")
    return _Parameters(rules, family, schema).written()


class _Parameters:
    """Writes the rules of one function's values."""

    def __init__(self, rules: dict[str, str], family: str, schema: dict[str, Any]) -> None:
        self._rules = rules
        self._schema = schema
        self._values = SchemaRules(schema, rules)
        self._before, self._end, self._behind = _TAGS_AROUND[family]
        self._bare = add_up_to(rules, "bare", self._end)

    def written(self) -> str:
        properties = self._schema.get("properties", {})
        required = self._schema.get("required", [])
        others = self._schema.get("additionalProperties", not properties)
        parts = []
        for key in [*properties, *(key for key in required if key not in properties)]:
            if (
                len(key) > 128
                or not key.isprintable()
                or set(key) & set("<>")
                or key != key.strip()
            ):
                _refuse(f"the form in which this model writes calls has no room for {key[:100]!a}")
            part = self._parameter(quoted(key), key)
            parts.append(part if key in required else f"{part}?")
        if not parts and others is not False:
            parts.append(f"{self._parameter(ANY_KEY, None)}*")
        self._rules["char"] = _CHAR
        return " ".join(parts)

    def _parameter(self, key_rule: str, key: str | None) -> str:
        value = self._value(key)
        name = f"p{len(self._rules)}"
        self._rules[name] = f"{self._before.format(key_rule)} ({value}) {self._behind}"
        return name

    def _value(self, key: str | None) -> str:
        """With its end."""
        known = self._schema.get("properties", {})
        if parameter_kinds(self._schema, "" if key is None else key) == TEXT:
            schema = known[key] if key in known else self._schema["additionalProperties"]
            return " | ".join(self._texts(schema))
        if key is not None and key in known:
            path = f"#/properties/{key.replace('~', '~0').replace('/', '~1')}"
        else:
            path = "#/additionalProperties"
            if not isinstance(self._schema.get("additionalProperties"), dict):
                return f"value {quoted(self._end)}"
        return f"{self._values.add(path)} {quoted(self._end)}"

    def _texts(self, schema: object) -> Iterator[str]:
        """What a string may be, each with its end."""
        assert isinstance(schema, dict), "it has been looked at"
        end = quoted(self._end)
        if "$ref" in schema:
            yield from self._texts(target_of(self._schema, schema["$ref"]))
        elif "const" in schema:
            yield quoted(schema["const"] + self._end)
        elif "enum" in schema:
            yield from (quoted(value + self._end) for value in schema["enum"])
        elif parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            for part in parts:
                yield from self._texts(part)
        elif isinstance(schema.get("format"), str) and schema["format"] in FORMATS:
            yield f"{FORMATS[schema['format']]} {end}"
        elif schema.get("minLength") is None and schema.get("maxLength") is None:
            yield self._bare
        else:
            count = times(schema.get("minLength") or 0, schema.get("maxLength"))
            yield f"{letters_but('<')}{count} {end}"


def _refuse(what: str) -> NoReturn:
    raise RuntimeFailure("bad_request", f"the JSON schema cannot be kept: {what}")
