"""The one place that asks the installed llama.cpp which GPUs it sees, of whatever maker.

NVML knows NVIDIA's alone. A build for Metal, ROCm or Vulkan lists its devices by ggml's own
registry, which llama-cpp-python does not bind.
"""

import ctypes
import sys
from typing import Any, Final

from runtimes.llama.libraries import library_folders

DEVICES_MAX: Final = 16
BYTES_MAX: Final = 2**50
"""No device has as much; a driver that says so shall break nothing."""
_GPUS: Final = (1, 2)
"""ggml's kinds of devices: a GPU, and one that shares the machine's memory."""
_BASE: Final = "ggml-base"
_REGISTRY: Final = "ggml"

Device = tuple[str, int, int]
"""What its maker calls it; its memory, and what of that is free."""


def gpu_devices() -> tuple[Device, ...]:
    """What llama.cpp could put a model on, its processors left out; none where it does not say.

    Whoever calls this has loaded llama.cpp.
    """
    try:
        return _listed(_library(_REGISTRY), _library(_BASE))
    except (OSError, AttributeError, ValueError, UnicodeDecodeError):
        return ()


def _library(name: str) -> Any:  # noqa: ANN401  # C functions
    for folder in library_folders():
        path = folder / _file_name(name)
        if path.exists():
            return ctypes.CDLL(str(path))
    raise OSError(f"no {name}")


def _file_name(library: str) -> str:
    if sys.platform == "win32":
        return f"{library}.dll"
    return f"lib{library}.dylib" if sys.platform == "darwin" else f"lib{library}.so"


def _listed(registry: Any, base: Any) -> tuple[Device, ...]:  # noqa: ANN401  # C functions
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    sizes = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    found: list[Device] = []
    for number in range(min(registry.ggml_backend_dev_count(), DEVICES_MAX)):
        device = registry.ggml_backend_dev_get(number)
        if base.ggml_backend_dev_type(device) not in _GPUS:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = (base.ggml_backend_dev_description(device) or b"").decode()
        total_bytes = min(total.value, BYTES_MAX)
        found.append((name, total_bytes, min(free.value, total_bytes)))
    return tuple(found)
