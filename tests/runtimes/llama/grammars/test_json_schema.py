"""JSON schemas become grammars, or one line that says why not."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.base import RuntimeFailure
from runtimes.llama.grammars.json_schema import grammar_of_schema

KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum"),
    *("const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "minItems", "maxItems", "minLength"),
    *("maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format", "not"),
)
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats()
leaves |= st.sampled_from(["object", "array", "string", "integer", "#", "#/$defs/a", "date"])
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=25,
)


@settings(max_examples=500, deadline=None)
@given(schemas)
def test_anything_is_a_grammar_or_a_bad_request(schema: object) -> None:
    """No other exception, whatever the schema is."""
    with contextlib.suppress(RuntimeFailure):
        assert "root ::= " in grammar_of_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"type": "nothing"}',
        '{"type": []}',
        '{"enum": []}',
        '{"anyOf": []}',
        '{"enum": ["\\ud800"]}',
        '{"$ref": "http://example.org/"}',
        '{"$ref": "#/$defs/missing"}',
        '{"pattern": "a*"}',
        '{"not": {"type": "string"}}',
        '{"type": "array", "minItems": 100000}',
        '{"type": "array", "minItems": 3, "maxItems": 2}',
        '{"type": "string", "maxLength": -1}',
        '{"type": "integer", "minimum": 0.5}',
        '{"type": "number", "maximum": 5}',
        '{"required": [["a"]]}',
        '{"required": ["a"], "properties": {}, "additionalProperties": false}',
        '{"maximum": NaN}',
        '{"items": ' * 70 + "{}" + "}" * 70,
        "false",
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(text: str) -> None:
    """Nothing is left out silently, and nothing is fetched."""
    with pytest.raises(RuntimeFailure) as failed:
        grammar_of_schema(text)
    assert failed.value.code == "bad_request"
    assert "\n" not in failed.value.message
