"""The one place that finds the runtime for a `--model` value.

A runtime is an entry point of the group `meshd.runtimes`: a `RuntimeFactory` under a name. What
a person writes is `demo`, a GGUF file, a folder of them, the name of a model that another program
has on this disk, or `NAME:REST` for the runtime NAME; and behind it options, `,NAME=VALUE` each.
"""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping

from runtimes.base import Runtime, RuntimeFactory, RuntimeFailure, Source
from runtimes.source_options import split_options

ENTRY_POINT_GROUP = "meshd.runtimes"
BUILT_IN = {
    "hf": "runtimes.models:create",
    "llama": "runtimes.llama:create",
    "openai": "runtimes.openai:create",
    "test": "tests.helpers.test_runtime:create",
}
"""What is there even in a checkout that was never installed."""

# One letter before the colon is a Windows drive.
_NAMED = re.compile(r"([a-z][a-z0-9_-]+):(.*)", re.DOTALL)
_PATH = re.compile(r"~|\.{0,2}[/\\]|[A-Za-z]:[/\\]")
"""How a path starts that can be nothing else."""


def make_source(spec: str, options: Mapping[str, str]) -> Source:
    """Make what `spec` names; its options, and `options` before them, are passed on to it.

    Raises RuntimeFailure `missing_dependency` when no such runtime can be had, or what the
    runtime's own cheap checks raise; the message is one line that says the mend. `none` is for
    the caller: it names no runtime.
    """
    if not (_is_file(spec) or _is_folder(spec)):  # one that is there may be called anything
        spec, written = split_options(spec)
        options = {**options, **written}
    if _is_name(options.get("draft", "demo")):
        from runtimes.models.on_disk import find_model, models_on_disk

        options = {**options, "draft": str(find_model(options["draft"], models_on_disk()).path)}
    if not spec or spec == "none":
        raise RuntimeFailure("invalid_model", f"{spec!r} names no model")
    if spec == "demo":
        return _factory("llama")("demo", options=options)
    named = _NAMED.fullmatch(spec)
    if _is_file(spec):
        return _make_llama(pathlib.Path(spec).expanduser(), options)
    if named and named[1] in known_runtimes():
        return _factory(named[1])(named[2], options=options)
    if _is_folder(spec):
        from runtimes.models.folder import ModelFolder

        return ModelFolder(
            pathlib.Path(spec).expanduser(),
            lambda path, name: _make_llama(path, {**options, **name}),
        )
    if _PATH.match(spec) is None:
        return _make_by_name(spec, options)
    return _factory("llama")(spec, options=options)  # says what is wrong with the path


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


def _make_llama(path: pathlib.Path, options: Mapping[str, str]) -> Runtime:
    """The runtime for a GGUF file, under a name that can be shown, whatever the file's is."""
    from runtimes.llama.files.model_file import model_name
    from runtimes.models.found_model import plain_name

    named = {"name": plain_name(model_name(path)), **options}
    source = _factory("llama")(str(path), options=named)
    assert isinstance(source, Runtime)  # a file is one model
    return source


def _make_by_name(spec: str, options: Mapping[str, str]) -> Source:
    """The model that another program has on this disk under the name `spec`."""
    from runtimes.models.on_disk import UnknownModel, find_model, models_on_disk

    try:
        model = find_model(spec, models_on_disk())
    except UnknownModel as unknown:
        if spec.lower().endswith(".gguf"):
            return _factory("llama")(spec, options=options)  # says that there is no such file
        if named := _NAMED.fullmatch(spec):
            raise RuntimeFailure(
                "missing_dependency",
                f"no runtime is called {named[1][:80]!r} ({_known()}), and {unknown.message}",
            ) from unknown
        raise
    return _make_llama(model.path, {**model.options(), **options})


def _is_name(spec: str) -> bool:
    """Whether it can only be that of a model that another program has on this disk."""
    is_path = _PATH.match(spec) is not None or spec.lower().endswith(".gguf")
    return not (spec == "demo" or is_path or _is_file(spec))


def _is_file(spec: str) -> bool:
    try:
        return pathlib.Path(spec).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, no home folder
        return False


def _is_folder(spec: str) -> bool:
    try:
        return pathlib.Path(spec).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False
