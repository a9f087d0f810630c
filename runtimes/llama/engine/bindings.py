"""The one place that imports llama_cpp, and only in the worker process.

Also where llama.cpp's log goes: nowhere, but its last warnings are kept for failure messages, and
`MESHD_LLAMA_LOG=1` sends everything to standard error.
"""

import collections
import ctypes
import importlib
import importlib.util
import os
import sys
import types
from typing import Any, ClassVar, TypeAlias

from runtimes.base import RuntimeFailure

LOG_VARIABLE = "MESHD_LLAMA_LOG"
LOG_LINES_KEPT = 20
LOG_LINE_CHARACTERS_MAX = 300
Bindings: TypeAlias = Any
"""The C functions. Untyped, so that a checkout without the extra is checked like one with it."""
Handle: TypeAlias = Any
"""What llama.cpp hands out: a pointer that is only given back to it."""
Parameters: TypeAlias = Any
"""A structure of its own, to be filled in."""

_NO_MEMORY = ("out of memory", "failed to allocate", "unable to allocate", "bad_alloc")
_LEVEL_WARNING = 3
_LEVEL_ERROR = 4
_LEVEL_CONTINUE = 5
"""The text goes on where the last one ended."""


def load_bindings() -> Bindings:
    """The module `llama_cpp.llama_cpp`: llama.cpp's C functions under their own names.

    Raises RuntimeFailure `missing_dependency` when it is absent or does not load.
    """
    try:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("it is not installed")
        # The package's own __init__ loads its high-level API with numpy and more: 15 MB and
        # 0.2 s for nothing that is used here. A bare package in its place has the same modules.
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules.setdefault("llama_cpp", package)
        return importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeFailure(
            "missing_dependency",
            f"llama.cpp does not load ({reason}): "
            "pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error


def load_vision_bindings() -> Bindings:
    """The module `llama_cpp.mtmd_cpp`, in the same way, behind `load_bindings`.

    Raises RuntimeFailure `missing_dependency`.
    """
    try:
        return importlib.import_module("llama_cpp.mtmd_cpp")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise RuntimeFailure(
            "missing_dependency",
            f"this llama.cpp has nothing for images ({error}): "
            "pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error


class LogTail:
    """Takes llama.cpp's log and keeps its last warnings and errors."""

    _installed: ClassVar[object] = None
    """C holds no reference to what it calls, and calls it for as long as the process lives."""

    def __init__(self, bindings: Bindings) -> None:
        self._lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=LOG_LINES_KEPT)
        self._is_loud = os.environ.get(LOG_VARIABLE, "") not in ("", "0")
        self._level = 0
        callback = bindings.llama_log_callback(self._take)
        bindings.llama_log_set(callback, ctypes.c_void_p(0))
        LogTail._installed = callback

    @property
    def callback(self) -> Handle:
        """What is called with each piece of the log, for libraries beside llama.cpp."""
        return LogTail._installed

    def last_error(self) -> str:
        """The last line that was an error, else the last warning, else an empty string."""
        errors = [text for level, text in self._lines if level == _LEVEL_ERROR]
        warnings = [text for _, text in self._lines]
        return (errors or warnings or [""])[-1]

    def is_out_of_memory(self) -> bool:
        """Whether one of the kept lines says that there was no memory."""
        return any(word in text.lower() for _, text in self._lines for word in _NO_MEMORY)

    def clear(self) -> None:
        """Forget the lines, so that the next failure is explained by its own."""
        self._lines.clear()

    def _take(self, level: int, text: bytes | None, _data: object) -> None:
        decoded = (text or b"").decode("utf-8", "replace")
        if self._is_loud:
            sys.stderr.write(decoded)
            sys.stderr.flush()
        self._level = self._level if level == _LEVEL_CONTINUE else level
        line = " ".join(decoded.split())[:LOG_LINE_CHARACTERS_MAX]
        # A line of dots is llama.cpp's progress bar.
        if self._level in (_LEVEL_WARNING, _LEVEL_ERROR) and line.strip(". "):
            self._lines.append((self._level, line))
