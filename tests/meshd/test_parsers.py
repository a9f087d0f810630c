"""Every parser of bytes from outside: near misses of what it takes are a value or its refusal.

Thousands more by hand: `python -m tests.benchmarks.parsers`.
"""

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.mutations import mutated, random_bytes
from tests.helpers.parsers import parsers


@pytest.mark.parametrize("name", [name for name in parsers() if name != "envelope"])
def test_what_is_valid_is_taken(name: str) -> None:
    """So that the near misses begin where a parser goes deepest. (An envelope takes a datagram
    only once.)
    """
    parser = parsers()[name]
    for data in parser.valid:
        parser.parse(data)


@pytest.mark.parametrize("name", parsers())
@given(st.integers(0, 2**32), st.booleans())
def test_near_misses_are_a_value_or_refused(name: str, seed: int, is_mutated: bool) -> None:
    """Bits, bytes and parts changed, lost, repeated, taken from another input; and noise."""
    parser = parsers()[name]
    rng = random.Random(seed)
    data = mutated(rng, parser) if is_mutated else random_bytes(rng, parser)
    with contextlib.suppress(*parser.refusals):
        parser.parse(data)
