"""From a `--model` value to a runtime, or to one line that says what to do."""

import importlib.metadata
import pathlib
import re

import pytest

from runtimes import registry
from runtimes.base import RuntimeFailure
from runtimes.llama.runtime import LlamaRuntime
from runtimes.registry import ENTRY_POINT_GROUP, known_runtimes, make_source
from runtimes.source_options import split_options
from tests.helpers.test_runtime import ScriptedRuntime
from tests.runtimes.serving import needs_llama


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Pretend that these runtimes are installed."""
    found = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP)
        for name, value in points.items()
    )
    monkeypatch.setattr(registry, "_entry_points", lambda: found)


def test_a_name_before_a_colon_chooses_the_runtime() -> None:
    """`test:NAME` is the scripted runtime."""
    assert isinstance(make_source("test:echo", {}), ScriptedRuntime)


def test_options_stand_behind_what_they_are_for() -> None:
    """`SOURCE,NAME=VALUE` reaches the runtime, over what the caller had chosen."""
    scripted = make_source("test:echo,slots=2,name=other", {"name": "first", "slots": "9"})
    assert isinstance(scripted, ScriptedRuntime)
    assert scripted.load.slots == 2


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("test:echo,slotz=2", "unknown option 'slotz'; did you mean slots?"),
        ("test:echo,slots=2,slots=3", "the option slots is given twice"),
        ("test:echo,slots=many", "slots must be a number from 0 to 2147483648"),
        ("openai:http://127.0.0.1:9/,slot=1", "unknown option 'slot'; did you mean slots?"),
        ("openai:http://127.0.0.1:9/,xy=1", "unknown option 'xy'; known are"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_nearest(spec: str, reason: str) -> None:
    """A typing error is a bad request that says what was meant."""
    with pytest.raises(RuntimeFailure, match=re.escape(reason)) as failed:
        make_source(spec, {})
    assert failed.value.code == "bad_request"


@pytest.mark.parametrize(
    ("spec", "source", "options"),
    [
        ("demo", "demo", {}),
        ("demo,slots=4,name=a b", "demo", {"slots": "4", "name": "a b"}),
        ("a,b.gguf,threads=", "a,b.gguf", {"threads": ""}),
        ("demo,4", "demo,4", {}),
        ("demo,slots=4,x", "demo,slots=4,x", {}),
        (",slots=4", "", {"slots": "4"}),
        ("C:/m,n/x.gguf,slots=4", "C:/m,n/x.gguf", {"slots": "4"}),
    ],
)
def test_options_are_told_from_the_source(spec: str, source: str, options: dict[str, str]) -> None:
    """Only pairs at the very end are options."""
    assert split_options(spec) == (source, options)


@pytest.mark.llama
@needs_llama
def test_demo_and_files_are_for_llama(tmp_path: pathlib.Path) -> None:
    """The model in the package and any GGUF file, whatever its name looks like."""
    from runtimes.llama.settings import DEMO_FILE

    odd = tmp_path / "test:odd,1.gguf"
    odd.write_bytes(DEMO_FILE.read_bytes())
    for spec in ("demo", "llama:demo,slots=3", str(odd), f"{odd},slots=3", f"llama:{odd},slots=3"):
        assert isinstance(make_source(spec, {}), LlamaRuntime)


@pytest.mark.parametrize("spec", [r"C:\models\x.gguf", "c:/models/x.gguf", "./x", "~/x", "x.GGUF"])
def test_paths_are_not_names(spec: str) -> None:
    """A drive letter is no runtime: the file is what is missing."""
    with pytest.raises(RuntimeFailure) as failed:
        make_source(spec, {})
    assert failed.value.code == "invalid_model"
    assert "cannot be read" in failed.value.message


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("", "invalid_model"),
        ("none", "invalid_model"),
        ("nosuch", "invalid_model"),
        ("nosuch:thing", "missing_dependency"),
        ("http://host/x", "missing_dependency"),
        ("nosuch:" + "x" * 10_000, "missing_dependency"),
        ("nosuch:\0", "missing_dependency"),
        ("\0", "invalid_model"),
        ("x" * 10_000, "invalid_model"),
        ("llama:", "invalid_model"),
    ],
)
def test_what_names_nothing_fails_with_one_line(spec: str, code: str) -> None:
    """Every wrong value is a RuntimeFailure of one line."""
    with pytest.raises(RuntimeFailure) as failed:
        make_source(spec, {})
    assert failed.value.code == code
    assert "\n" not in failed.value.message


def test_an_unknown_runtime_lists_the_known() -> None:
    """The line says what could have been written."""
    with pytest.raises(RuntimeFailure, match="llama:") as failed:
        make_source("nosuch:thing", {})
    assert all(name in failed.value.message for name in known_runtimes())


@pytest.mark.parametrize("target", ["no.such.module:create", "json:no_such", "runtimes.base:"])
def test_a_plug_in_that_does_not_load_says_so(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A broken installation is one line with the mend, not a traceback."""
    install(monkeypatch, broken=target)
    with pytest.raises(RuntimeFailure, match="does not load") as failed:
        make_source("broken:x", {})
    assert failed.value.code == "missing_dependency"
    assert "\n" not in failed.value.message


def test_an_installed_runtime_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point is all that a new runtime needs."""
    install(monkeypatch, other="tests.helpers.test_runtime:create")
    assert isinstance(make_source("other:echo", {}), ScriptedRuntime)
    assert "other" in known_runtimes()
