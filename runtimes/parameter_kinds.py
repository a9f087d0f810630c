"""The one place that says what JSON a parameter's value is where a model writes it as bare text.

Pure. A schema comes from a client: any JSON gives an answer, a foreign or endless one "anything".
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

ANYTHING: Final = frozenset(
    {"object", "array", "string", "number", "integer", "boolean", "null"},
)
TEXT: Final = frozenset({"string"})
_VISITS_MAX: Final = 256
"""Schemas that are looked at for one parameter."""
_KIND_OF: Final[dict[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}
"""As templates that are Python's write them."""


def parameter_kinds(schema: object, key: str) -> frozenset[str]:
    """JSON's words for what `schema`, of all arguments, lets the parameter `key` be."""
    if not isinstance(schema, dict):
        return ANYTHING
    properties = schema.get("properties")
    if isinstance(properties, dict) and key in properties:
        value = properties[key]
    else:
        value = schema.get("additionalProperties")
    return frozenset(_kinds(schema, value)) or ANYTHING


def value_text(text: str, kinds: frozenset[str]) -> str:
    """The JSON text of a value that is written as `text` and may be of these kinds: itself where it
    is JSON of one of them, or of another where no string may stand there; else a string.
    """
    bare = text.strip()
    if "string" not in kinds:
        bare = _PYTHON.get(bare, bare)
    try:
        value = json.loads(bare, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if "string" in kinds and not _kinds_of_value(value) & kinds:
        return json.dumps(text, ensure_ascii=False)
    return bare


def _kinds(root: Mapping[str, Any], value: object) -> Iterator[str]:
    waiting, visits = [value], 0
    while waiting:
        schema = waiting.pop()
        visits += 1
        if visits > _VISITS_MAX or not isinstance(schema, dict):
            yield from ANYTHING
            return
        kinds = schema.get("type")
        parts = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if key in schema), None)
        if "$ref" in schema:
            waiting.append(target_of(root, schema["$ref"]))
        elif "const" in schema:
            yield from _kinds_of_value(schema["const"])
        elif isinstance(schema.get("enum"), list):
            for each in schema["enum"]:
                yield from _kinds_of_value(each)
        elif isinstance(parts, list) and parts:
            waiting += parts
        elif isinstance(kinds, str):
            yield kinds
        elif isinstance(kinds, list):
            yield from (kind for kind in kinds if isinstance(kind, str))
        else:
            yield from _guessed(schema)


def _guessed(schema: Mapping[str, Any]) -> frozenset[str]:
    """Many leave out the type of what is plain to see."""
    if schema.keys() & {"minLength", "maxLength"}:
        return TEXT
    if schema.keys() & {"properties", "required"}:
        return frozenset({"object"})
    return frozenset({"array"}) if schema.keys() & {"items", "prefixItems"} else ANYTHING


def target_of(root: Mapping[str, Any], path: object) -> object:
    """What a `$ref` points to in `root`; None: nowhere."""
    if not isinstance(path, str) or not path.startswith("#"):
        return None
    target: object = root
    for step in path.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, dict) else None
    return target


def _kinds_of_value(value: object) -> frozenset[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return frozenset({_KIND_OF[type(value)]})
    is_whole = isinstance(value, int) or value.is_integer()
    return frozenset({"number", "integer"} if is_whole else {"number"})


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
