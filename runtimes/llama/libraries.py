"""The one place for where the installed llama.cpp has its libraries; nothing is loaded."""

import importlib.util
import pathlib


def library_folders() -> tuple[pathlib.Path, ...]:
    """The folders; none where llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    places = (spec and spec.submodule_search_locations) or ()
    return tuple(pathlib.Path(place, "lib") for place in places)
