"""The one place for what a model's llama.cpp sees of this machine's GPUs, and what is said where
one lies idle because llama.cpp was built without it.
"""

from typing import Final

import trio

from runtimes import hardware
from runtimes.hardware import Gpu
from runtimes.llama.frames import Ready

GPU_BUILD: Final = (
    "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir llama-cpp-python"
)


class SeenGpus:
    """Of one model, from its first worker on."""

    def __init__(self) -> None:
        self.gpus: tuple[Gpu, ...] = ()
        self.advice: str | None = None
        """One line with the command that would make it faster, if there is one."""
        self._lacks_gpu = False

    def note(self, frame: Ready) -> None:
        """A worker is up."""
        self._lacks_gpu = not frame.gpu_offload
        sizes = zip(frame.gpu_names, frame.gpu_bytes, frame.gpu_free_bytes, strict=False)
        self.gpus = tuple(
            Gpu(name=hardware.plain_name(name), vram_bytes=vram_bytes, vram_free_bytes=free_bytes)
            for name, vram_bytes, free_bytes in sizes
            if vram_bytes >= free_bytes >= 0
        )

    async def look_for_idle(self) -> bool:
        """Look for a GPU that the worker cannot use; whether there is news of one."""
        if self.advice is not None or not self._lacks_gpu:
            return False
        # NVML may hang with a sick driver; nobody waits for it.
        found = await trio.to_thread.run_sync(hardware.gpus, abandon_on_cancel=True)
        if found:
            self.advice = (
                f"{found[0].name} is idle, because this llama.cpp is built without GPU support: "
                f"{GPU_BUILD}"
            )
        return bool(found)
