"""The one place that finds the runtime for a `--model` value.

A runtime is an entry point of the group `meshd.runtimes`: a `RuntimeFactory` under a name. What
a person writes is `demo`, a GGUF file, or `NAME:REST` for the runtime NAME.
"""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping

from runtimes.base import RuntimeFactory, RuntimeFailure, Source

ENTRY_POINT_GROUP = "meshd.runtimes"
BUILT_IN = {
    "llama": "runtimes.llama:create",
    "test": "tests.helpers.test_runtime:create",
}
"""What is there even in a checkout that was never installed."""

# One letter before the colon is a Windows drive.
_NAMED = re.compile(r"([a-z][a-z0-9_-]+):(.*)", re.DOTALL)


def make_source(spec: str, options: Mapping[str, str]) -> Source:
    """Make what `spec` names; `options` are passed on to it.

    Raises RuntimeFailure `missing_dependency` when no such runtime can be had, or what the
    runtime's own cheap checks raise; the message is one line that says the mend. `none` is for
    the caller: it names no runtime.
    """
    if not spec or spec == "none":
        raise RuntimeFailure("invalid_model", f"{spec!r} names no model")
    if spec == "demo":
        return _factory("llama")("demo", options=options)
    named = _NAMED.fullmatch(spec)
    if named and not _is_file(spec):
        return _factory(named[1])(named[2], options=options)
    if not _looks_like_path(spec) and not _is_file(spec):
        raise RuntimeFailure(
            "invalid_model", f"{spec!r} is no file; give 'demo', a GGUF file, or {_known()}"
        )
    return _factory("llama")(spec, options=options)


def known_runtimes() -> list[str]:
    """The names that may stand before the colon, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in _entry_points())})


def _factory(name: str) -> RuntimeFactory:
    points = {point.name: point for point in _entry_points()}
    if name in points:
        point = points[name]
    elif name in BUILT_IN:
        point = importlib.metadata.EntryPoint(name, BUILT_IN[name], ENTRY_POINT_GROUP)
    else:
        raise RuntimeFailure("missing_dependency", f"no runtime is called {name!r}; {_known()}")
    try:
        factory: RuntimeFactory = point.load()
    except Exception as error:  # a plug-in's import may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RuntimeFailure(
            "missing_dependency",
            f"the runtime {name!r} does not load ({reason}); reinstall it, or use another: "
            f"{_known()}",
        ) from error
    return factory


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)


def _known() -> str:
    return "known runtimes are " + ", ".join(f"{name}:..." for name in known_runtimes())


def _looks_like_path(spec: str) -> bool:
    return spec.lower().endswith(".gguf") or any(mark in spec for mark in "/\\~")


def _is_file(spec: str) -> bool:
    try:
        return pathlib.Path(spec).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, no home folder
        return False
