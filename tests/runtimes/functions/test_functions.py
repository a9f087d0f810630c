"""The functions in the package, and how functions are found."""

import hashlib
import importlib.metadata
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.functions import registry
from runtimes.functions.call import DEPTH_MAX, is_shallow
from runtimes.functions.primes import LIMIT_MAX, primes
from runtimes.functions.registry import known_functions
from runtimes.functions.word_count import word_count
from tests.runtimes.functions.running import call, make_runner, result_of


@given(limit=st.integers(min_value=0, max_value=3000))
def test_primes_are_the_primes(limit: int) -> None:
    """As trial division finds them."""
    expected = [n for n in range(2, limit + 1) if all(n % d for d in range(2, n))]
    found = primes(limit)
    assert (found["count"], found["largest"]) == (len(expected), expected[-5:])


@pytest.mark.parametrize(
    ("limit", "count"), [(10**6, 78_498), (2**20 + 2, 82_025), (10**7, 664_579)]
)
def test_primes_over_several_segments(limit: int, count: int) -> None:
    """Known counts; the edges of segments lose nothing."""
    assert primes(limit)["count"] == count


@pytest.mark.parametrize("limit", [-1, LIMIT_MAX + 1])
def test_primes_have_a_limit(limit: int) -> None:
    """Beyond it the function refuses."""
    with pytest.raises(ValueError, match="the limit must be"):
        primes(limit)


@settings(max_examples=50)
@given(content=st.binary(max_size=300), repeats=st.sampled_from([1, 300, 1000]))
def test_word_count_counts(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, repeats: int
) -> None:
    """As the whole content at once would be counted, also over the edges of blocks."""
    content *= repeats
    file = tmp_path_factory.mktemp("words") / "file"
    file.write_bytes(content)
    assert word_count(file) == {
        "lines": content.count(b"\n"),
        "words": len(content.split()),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_what_ships_can_be_run(tmp_path: pathlib.Path) -> None:
    """Both functions in the package, by their names."""
    assert {"meshd.primes", "meshd.word_count"} <= known_functions().keys()
    runner = make_runner(tmp_path)
    assert result_of(runner, call("meshd.primes", limit=10))["count"] == 4
    assert result_of(runner, call("meshd.word_count", inputs={"file": b"a b"}))["words"] == 2


def test_an_installed_package_adds_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entry points, without an import; a name that is none is left out."""
    points = [
        importlib.metadata.EntryPoint("mine.f", "no.such.module:f", registry.ENTRY_POINT_GROUP),
        importlib.metadata.EntryPoint("not a name", "x:y", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    found = known_functions()
    assert found["mine.f"] == "no.such.module:f"
    assert "not a name" not in found
    assert list(found) == sorted(found)


def test_depth_is_counted_in_lists_and_objects() -> None:
    """As deep as the limit is fine, one more is not, wherever it lies."""
    assert is_shallow(1)
    assert is_shallow([[], {}])
    deep: object = 0
    for _ in range(DEPTH_MAX - 1):
        deep = [deep]
    assert is_shallow(deep)
    assert not is_shallow({"a": [deep]})
