"""The one place that turns a JSON schema into a grammar (GBNF). Pure.

What a grammar cannot promise is refused by name rather than left out: an answer that does not
keep the schema would be worse than none. Annotations (`title`, `description`, `format` of an
unknown sort, and so on) mean nothing here.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from runtimes.base import RuntimeFailure

DEPTH_MAX = 64
"""Schemas in one another."""
RULES_MAX = 4_000
COUNT_MAX = 1_000
"""Of `minItems`, `maxLength` and the like; llama.cpp's parser writes repetitions out."""

_BUILT_IN = {
    "space": r'(" " | "\n" " "{0,16})?',
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "digits": "[0-9]{1,16}",
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "string": r'"\"" char* "\""',
    "integer": '"-"? whole',
    "number": '"-"? whole ("." digits)? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ":" space value',
    "object": '"{" space (member (space "," space member)*)? space "}"',
    "array": '"[" space (value (space "," space value)*)? space "]"',
}
FORMATS = {
    "date": '[0-9]{4} "-" [01] [0-9] "-" [0-3] [0-9]',
    "time": '[0-2] [0-9] ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [-+] [0-2] [0-9] ":" [0-5] [0-9])',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}
FORMATS["date-time"] = f'{FORMATS["date"]} "T" {FORMATS["time"]}'
"""Texts of a form, without quotation marks."""
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"),
    *("propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "contains"),
    *("unevaluatedItems", "uniqueItems", "multipleOf", "pattern", "$dynamicRef"),
)


def grammar_of_schema(text: str) -> str:
    """The grammar of the JSON texts that keep the schema in `text`.

    Raises RuntimeFailure `bad_request` with one line that names what is wrong or not supported.
    """
    rules: dict[str, str] = {}
    rules["root"] = add_schema(rules, text)
    return written(rules)


def add_schema(rules: dict[str, str], text: str) -> str:
    """Add what the schema in `text` needs to the rules of a grammar; return its rule's name.

    Raises RuntimeFailure `bad_request` as above.
    """
    return SchemaRules(parsed(text), rules).add()


def parsed(text: str) -> object:
    """The schema in `text`. Raises RuntimeFailure `bad_request` for what is not JSON."""
    try:
        schema: object = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        _refuse("it is not JSON")
    return schema


def written(rules: Mapping[str, str]) -> str:
    """Rules as a grammar's text."""
    return "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())


class SchemaRules:
    """Adds the rules of one schema, or of its parts, to those of a grammar."""

    def __init__(self, schema: object, rules: dict[str, str]) -> None:
        self._schema = schema
        self._rules = rules
        rules |= _BUILT_IN
        self._references: dict[str, str] = {}
        self._depth = 0

    def add(self, path: str = "#") -> str:
        """Add what the part needs that `path` points to, as a `$ref` does; return its rule's name.

        Raises RuntimeFailure `bad_request` as `add_schema` does.
        """
        try:
            # It may be named by references, so it is one itself.
            return self._reference(path)
        except UnicodeEncodeError:
            _refuse("it has half a character")
        except RecursionError:
            _refuse("it is too deep")

    def _add(self, rule: str) -> str:
        name = f"r{len(self._rules)}"
        if len(self._rules) >= RULES_MAX:
            _refuse("it is too large")
        self._rules[name] = rule
        return name

    def _visit(self, schema: object) -> str:
        """The name of the rule for `schema`."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            _refuse("a schema must be an object")
        self._depth += 1
        if self._depth > DEPTH_MAX:
            _refuse(f"it is more than {DEPTH_MAX} levels deep")
        name = self._rule(schema)
        self._depth -= 1
        return name

    def _rule(self, schema: dict[str, Any]) -> str:
        for keyword in _REFUSED:
            if schema.get(keyword) not in (None, False):
                _refuse(f"{keyword!r} is not supported")
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        if "const" in schema:
            return self._literals([schema["const"]])
        if "enum" in schema:
            return self._literals(_listed(schema, "enum"))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                parts = _listed(schema, keyword)
                if keyword == "allOf" and len(parts) > 1:
                    _refuse("'allOf' of several schemas is not supported")
                return self._any(self._visit(part) for part in parts)
        kinds = schema.get("type", self._guessed(schema))
        if isinstance(kinds, list):
            return self._any(self._typed(schema, kind) for kind in kinds)
        return self._typed(schema, kinds)

    def _guessed(self, schema: dict[str, Any]) -> object:
        """Many leave out the type of an object or array that is plain to see."""
        if "properties" in schema or "additionalProperties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        if "minLength" in schema or "maxLength" in schema:
            return "string"
        return list(_TYPES) if schema.keys() & {"minimum", "maximum"} else "value"

    def _typed(self, schema: dict[str, Any], kind: object) -> str:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return self._number(schema, kind)
            case "boolean" | "null" | "value":
                return kind
            case _:
                return _refuse("its 'type' is unknown")

    def _any(self, names: Iterable[str]) -> str:
        alternatives = list(names)
        if not alternatives:
            _refuse("nothing keeps it")
        return self._add(" | ".join(alternatives))

    def _literals(self, values: list[object]) -> str:
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        return self._add(" | ".join(map(quoted, texts)))

    def _reference(self, path: object) -> str:
        """The name of the rule for what `path` points to; `#` is all of it."""
        if not isinstance(path, str) or not path.startswith("#"):
            _refuse("'$ref' must point into the same schema, such as '#/$defs/name'")
        if path not in self._references:
            target = self._schema
            for step in path.removeprefix("#").split("/")[1:]:
                key = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, dict) or key not in target:
                    _refuse(f"'$ref' points nowhere: {path[:100]!a}")
                target = target[key]
            name = self._references[path] = self._add("")  # known before it is visited: recursion
            self._rules[name] = self._visit(target)
        return self._references[path]

    def _object(self, schema: dict[str, Any]) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            _refuse("'properties' must be an object and 'required' a list")
        if not all(isinstance(name, str) for name in required):
            _refuse("'required' must list names")
        others = schema.get("additionalProperties", not properties)
        unnamed = [name for name in required if name not in properties]
        if unnamed and others is False:
            _refuse(f"'required' names what 'properties' has not: {unnamed[0][:100]!a}")
        fields = [(key, self._visit(value), key in required) for key, value in properties.items()]
        fields += [(key, "value", True) for key in unnamed]
        if others is False:
            first, later = '""', '""'
        else:
            member = self._add(f'string ":" space {self._visit(others)}')
            later = f'(space "," space {member})*'
            first = f"({member} {later})?"
        # From the last to the first: what may come when none has come before, and when one has.
        for key, value, is_required in reversed(fields):
            pair = f'{quoted(json.dumps(key, ensure_ascii=False))} space ":" space {value}'
            first_rule, later_rule = self._add(first), self._add(later)
            first = f"{pair} {later_rule}" + ("" if is_required else f" | {first_rule}")
            comma = f'space "," space {pair}'
            later = f"{comma if is_required else f'({comma})?'} {later_rule}"
        return self._add(f'"{{" space {self._add(first)} space "}}"')

    def _array(self, schema: dict[str, Any]) -> str:
        leading = [self._visit(item) for item in _listed(schema, "prefixItems", [])]
        items = schema.get("items", True)
        least, most = _count(schema, "minItems"), _count(schema, "maxItems")
        if leading:
            # As many as are listed, or more of `items` where that is asked for.
            parts = ' space "," space '.join(leading)
            more = ""
            if least is not None and least > len(leading):
                more = f'(space "," space {self._visit(items)}){times(least - len(leading), None)}'
            return self._add(f'"[" space {parts} {more} space "]"')
        if items is False or most == 0:
            return self._add('"[" space "]"')
        item = self._visit(items)
        least = least or 0
        if most is not None and most < least:
            _refuse("'maxItems' is less than 'minItems'")
        count = times(max(0, least - 1), None if most is None else most - 1)
        inner = f'{item} (space "," space {item}){count}'
        return self._add(f'"[" space ({inner}){"" if least else "?"} space "]"')

    def _string(self, schema: dict[str, Any]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in FORMATS:
            return self._add(rf'"\"" {FORMATS[form]} "\""')
        least, most = _count(schema, "minLength"), _count(schema, "maxLength")
        if least is None and most is None:
            return "string"
        if most is not None and most < (least or 0):
            _refuse("'maxLength' is less than 'minLength'")
        return self._add(rf'"\"" char{times(least or 0, most)} "\""')

    def _number(self, schema: dict[str, Any], kind: str) -> str:
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        bounds = {name: schema[name] for name in names if schema.get(name) is not None}
        if not bounds:
            return kind
        if any(type(bound) is not int for bound in bounds.values()):
            _refuse("bounds of numbers must be whole numbers")
        if kind == "integer":
            lows = [bounds.get("minimum"), _moved(bounds.get("exclusiveMinimum"), 1)]
            highs = [bounds.get("maximum"), _moved(bounds.get("exclusiveMaximum"), -1)]
            low = max((bound for bound in lows if bound is not None), default=None)
            high = min((bound for bound in highs if bound is not None), default=None)
            if low is not None and high is not None and 0 <= high - low < COUNT_MAX:
                return self._literals(list(range(low, high + 1)))
            if high is None and low in (0, 1):
                return self._add("whole" if low == 0 else "[1-9] [0-9]{0,15}")
        elif bounds == {"minimum": 0}:
            return self._add('whole ("." digits)? ([eE] [-+]? [0-9]{1,3})?')
        return _refuse(
            f"only integers from one number to another ({COUNT_MAX} values at most), "
            "or numbers from 0 on, can be bounded"
        )


def _listed(schema: dict[str, Any], keyword: str, default: list[Any] | None = None) -> list[Any]:
    value = schema.get(keyword, default)
    if not isinstance(value, list) or not (value or default is not None):
        _refuse(f"{keyword!r} must be a list with something in it")
    return value


def _moved(bound: int | None, by: int) -> int | None:
    return None if bound is None else bound + by


def _count(schema: dict[str, Any], keyword: str) -> int | None:
    value = schema.get(keyword)
    if value is not None and (type(value) is not int or not 0 <= value <= COUNT_MAX):
        _refuse(f"{keyword!r} must be 0 to {COUNT_MAX}")
    return value


def times(least: int, most: int | None) -> str:
    """How often a rule is repeated, from `least` to `most`."""
    if most is None:
        return "*" if least == 0 else f"{{{least},}}"
    return f"{{{least},{most}}}"


def quoted(text: str) -> str:
    r"""`text` as a GBNF literal. Raises UnicodeEncodeError for half a character."""
    text.encode()
    inner = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in inner) + '"'


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(what: str) -> NoReturn:
    raise RuntimeFailure("bad_request", f"the JSON schema cannot be kept: {what}")
