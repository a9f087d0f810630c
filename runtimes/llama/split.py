"""The one place for how a model is laid over several GPUs: as asked, and as llama.cpp is told."""

import ctypes
import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from runtimes.base import RuntimeFailure
from runtimes.hardware import GPUS_MAX
from runtimes.llama.engine.bindings import Bindings, Parameters
from runtimes.source_options import integer_option

MODES: Final = {"none": 0, "layer": 1, "row": 2}
"""llama.cpp's numbers: all on one GPU; whole layers on each; rows of each layer on each."""
OPTIONS: Final = ("split_mode", "main_gpu", "tensor_split")
SHARE_MAX: Final = 1e9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What was asked for; the rest is llama.cpp's choice: whole layers, by the memory that is free
    on each GPU.
    """

    mode: int | None = None
    """Of MODES."""
    main_gpu: int | None = None
    """The GPU of a model that is not split, or that has what cannot be split by rows."""
    shares: tuple[float, ...] = ()
    """Of each GPU, in any unit; none for those that are not named."""

    @classmethod
    def of(cls, options: Mapping[str, str]) -> "Split":
        """What a model's options say. Raises RuntimeFailure `bad_request`."""
        mode = options.get("split_mode")
        if mode is not None and mode not in MODES:
            raise RuntimeFailure("bad_request", f"split_mode must be {', '.join(MODES)}")
        shares = _shares(options["tensor_split"]) if "tensor_split" in options else ()
        return cls(
            mode=None if mode is None else MODES[mode],
            main_gpu=integer_option(options, "main_gpu", 0, GPUS_MAX - 1),
            shares=shares,
        )

    def devices(self, there: int) -> int:
        """Over how many GPUs the model is laid, of so many that can be used."""
        if self.mode == MODES["none"]:
            return min(1, there)
        # Where none of those that are there has a share, llama.cpp takes them all.
        return sum(share > 0 for share in self.shares[:there]) or there

    def fill(self, bindings: Bindings, parameters: Parameters) -> None:
        """Tell llama.cpp, by the parameters of a model."""
        if self.mode is not None:
            parameters.split_mode = self.mode
        if self.main_gpu is not None:
            parameters.main_gpu = self.main_gpu
        if self.shares:
            # It reads a number for each device that it could ever have. The structure keeps them.
            room = max(int(bindings.llama_max_devices()), len(self.shares))
            shares = (ctypes.c_float * room)(*self.shares)
            parameters.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(share) for share in text.split("/"))
    except ValueError:
        shares = ()
    is_sane = all(math.isfinite(share) and 0 <= share <= SHARE_MAX for share in shares)
    if not is_sane or not any(shares) or len(shares) > GPUS_MAX:
        raise RuntimeFailure(
            "bad_request",
            f"tensor_split is a share for each GPU, such as 3/1; {GPUS_MAX} at most, and not all 0",
        )
    return shares
