"""The one place for what is said where a GPU lies idle because llama.cpp was built without it."""

from typing import Final

import trio

from runtimes import hardware

GPU_BUILD: Final = (
    "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
)


async def idle_gpu_advice() -> str | None:
    """One line with the command that mends it; None where there is no GPU."""
    # NVML may hang with a sick driver; nobody waits for it.
    gpus = await trio.to_thread.run_sync(hardware.gpus, abandon_on_cancel=True)
    if not gpus:
        return None
    return (
        f"{gpus[0].name} is idle, because this llama.cpp is built without GPU support: {GPU_BUILD}"
    )
