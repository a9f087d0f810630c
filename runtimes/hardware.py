"""The one place that asks what this machine has: processor, memory, GPUs.

Everything here blocks (NVML may take a second to wake a driver) and must be called in a thread.
Nothing here raises: what cannot be found out is left out, and no GPU is a normal answer.
"""

import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psutil

from runtimes.room import Room

GPUS_MAX = 16
"""GPUs listed at most; larger machines exist, but a record has to fit into a datagram."""
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
NAME_CHARACTERS_MAX = 64
RECORD_NAME_CHARACTERS_MAX = 40
RECORD_GPU_KINDS_MAX = 3
TIER_1_VRAM_BYTES = 7_600_000_000
"""8 GB; a little less, because boards and drivers keep some for themselves."""
TIER_2_MEMORY_BYTES = 3_600_000_000
"""4 GB, less what firmware and kernel reserve."""
TIER_2_CORES = 2
FEATURES = ("avx", "avx2", "avx512f", "amx_int8", "fma", "f16c", "asimd", "sve", "i8mm")
"""That llama.cpp has code for, as Linux calls them."""
FLOOR_SHARE = 50
"""One part in so many of a machine's memory stays free of models ..."""
FLOOR_BYTES_MAX = 2**29
"""... or this much."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, as NVML or llama.cpp sees it."""

    name: str
    vram_bytes: int
    vram_free_bytes: int
    uuid: str = ""
    """NVML's own name for it; empty where another has named it."""
    load_percent: int | None = None
    temperature_c: int | None = None
    power_w: int | None = None
    """As of now; None: not told."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the machine has and how much of it is free, at one moment."""

    os: str
    """System and processor family, such as `Linux x86_64`."""
    cpu: str
    """The processor's name as the system gives it; may be empty."""
    cores: int
    """Physical cores that this process may use."""
    memory_bytes: int
    memory_available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    cpu_features: tuple[str, ...] = ()
    """Of FEATURES, those that the processor has."""
    disk_free_bytes: int = 0
    """Where the owner's home is, and models are kept; 0: unknown."""
    on_battery: bool = False

    @property
    def tier(self) -> int:
        """1: a GPU with 8 GB or more; 2: 4 GB of memory and 2 cores; 3: less."""
        if any(gpu.vram_bytes >= TIER_1_VRAM_BYTES for gpu in self.gpus):
            return 1
        if self.memory_bytes >= TIER_2_MEMORY_BYTES and self.cores >= TIER_2_CORES:
            return 2
        return 3

    def to_record(self) -> dict[str, object]:
        """A small JSON-able form: less than 600 bytes as msgpack.

        Equal GPUs are one entry with a count; at most three kinds are named.
        """
        kinds: dict[tuple[str, int], list[Gpu]] = {}
        for gpu in self.gpus[:GPUS_MAX]:
            kinds.setdefault((gpu.name, gpu.vram_bytes), []).append(gpu)
        return {
            "os": plain_name(self.os)[:RECORD_NAME_CHARACTERS_MAX],
            "cpu": plain_name(self.cpu),
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "memory_available_bytes": self.memory_available_bytes,
            "cpu_features": list(self.cpu_features),
            "disk_free_bytes": self.disk_free_bytes,
            "on_battery": self.on_battery,
            "gpus": [
                {
                    "name": plain_name(name)[:RECORD_NAME_CHARACTERS_MAX],
                    "count": len(gpus),
                    "vram_bytes": vram_bytes,
                    "vram_free_bytes": sum(gpu.vram_free_bytes for gpu in gpus),
                }
                for (name, vram_bytes), gpus in list(kinds.items())[:RECORD_GPU_KINDS_MAX]
            ],
            "tier": self.tier,
        }

    def to_status(self) -> dict[str, object]:
        """The same with what changes all the time: each GPU as it is now."""
        return {**self.to_record(), "gpus": [dataclasses.asdict(gpu) for gpu in self.gpus]}


def snapshot(others: Sequence[Gpu] = ()) -> Hardware:
    """Look at the machine now. `others`: GPUs that somebody else has found; those that NVML sees,
    too, are one. Blocking; never raises.
    """
    memory_bytes, available_bytes = _memory()
    seen = gpus()
    names = {gpu.name for gpu in seen}
    return Hardware(
        os=plain_name(f"{platform.system()} {platform.machine()}".strip()),
        cpu=_cpu_name(),
        cores=usable_cores(),
        memory_bytes=memory_bytes,
        memory_available_bytes=available_bytes,
        gpus=(*seen, *(gpu for gpu in others if gpu.name not in names))[:GPUS_MAX],
        cpu_features=_cpu_features(),
        disk_free_bytes=_disk_free_bytes(),
        on_battery=is_on_battery(),
    )


def differs(told: object, now: object) -> bool:
    """Whether a record says something else than one that was told: of what changes all the time,
    what is free, a quarter more or less is the same.
    """
    if isinstance(told, dict) and isinstance(now, dict):
        return told.keys() != now.keys() or any(differs(told[key], now[key]) for key in now)
    if isinstance(told, list) and isinstance(now, list):
        return len(told) != len(now) or any(map(differs, told, now))
    if type(told) is int and type(now) is int:
        return abs(told - now) > max(told, now) // 4
    return told != now


def usable_cores() -> int:
    """Physical cores that this process may run on; at least 1."""
    with contextlib.suppress(OSError, psutil.Error):
        physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
        # Containers and `taskset` allow fewer logical ones; sched_getaffinity is Linux only.
        affinity = getattr(os, "sched_getaffinity", None)
        allowed = len(affinity(0)) if affinity is not None else physical
        return max(1, min(physical, allowed))
    return 1


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that NVML sees; none without the library, the driver or a GPU. Blocking."""
    with contextlib.suppress(Exception), _nvml() as nvml:  # any driver state is a normal answer
        found = []
        for index in range(min(nvml.nvmlDeviceGetCount(), GPUS_MAX)):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                Gpu(
                    name=plain_name(_text(nvml.nvmlDeviceGetName(handle))),
                    vram_bytes=int(memory.total),
                    vram_free_bytes=int(memory.free),
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    load_percent=_told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),  # noqa: B023  # called at once
                    temperature_c=_told(lambda: nvml.nvmlDeviceGetTemperature(handle, 0)),  # noqa: B023
                    power_w=_told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) // 1000),  # noqa: B023
                )
            )
        return tuple(found)
    return ()


def _told(ask: Callable[[], Any]) -> int | None:
    """What a driver says; not every board knows everything."""
    with contextlib.suppress(Exception):
        return int(ask())
    return None


def usable_gpus() -> tuple[Gpu, ...]:
    """Those that a program started here may use, by CUDA_VISIBLE_DEVICES. Blocking."""
    return visible_gpus(gpus(), os.environ.get(VISIBLE_VARIABLE))


def visible_gpus(found: Sequence[Gpu], named: str | None) -> tuple[Gpu, ...]:
    """Of `found` those that the value of CUDA_VISIBLE_DEVICES names, by number or by the beginning
    of their UUID; None: all. As CUDA reads it, the first that is not there ends the list.
    """
    if named is None:
        return tuple(found)
    visible: list[Gpu] = []
    for name in (part.strip() for part in named.split(",")):
        if name.isdecimal():
            matches = found[int(name[:9]) :][:1]
        else:
            matches = [gpu for gpu in found if name and gpu.uuid.startswith(name)]
        if len(matches) != 1 or any(matches[0] is each for each in visible):
            break
        visible += matches
    return tuple(visible)


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The initialized NVML library; raises whatever it raises."""
    import pynvml  # only machines that ask for GPUs pay for it

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def is_on_battery() -> bool:
    """Whether this machine runs on its battery now; one without a battery, or without word, does
    not.
    """
    with contextlib.suppress(OSError, psutil.Error, AttributeError):  # not on every system
        battery = psutil.sensors_battery()
        return battery is not None and battery.power_plugged is False
    return False


def available_memory_bytes() -> int:
    """Memory that programs could take now without swapping; 0: unknown. Fast."""
    return _memory()[1]


def free_room(*, with_gpus: bool) -> Room:
    """What models may still take here. Blocking: NVML may take a second, and only does
    `with_gpus`.
    """
    memory = psutil.virtual_memory()
    floor_bytes = min(FLOOR_BYTES_MAX, memory.total // FLOOR_SHARE)
    vram_bytes = sum(gpu.vram_free_bytes for gpu in usable_gpus()) if with_gpus else 0
    return Room(int(memory.available) - floor_bytes, vram_bytes)


def own_bytes(pids: Iterable[int]) -> dict[int, int]:
    """What each of these processes has of ordinary memory for itself. A file that is mapped, as
    weights are, counts as available to the system, so it is no part of this where that is told.
    """
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            memory = psutil.Process(pid).memory_info()
            found[pid] = int(memory.rss - getattr(memory, "shared", 0))
    return found


def _memory() -> tuple[int, int]:
    with contextlib.suppress(OSError, psutil.Error):
        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    return 0, 0


def _cpu_name() -> str:
    name = _cpuinfo("model name", "Model")
    return plain_name(name or platform.processor() or platform.machine())


def _cpu_features() -> tuple[str, ...]:
    """By what the kernel tells; Apple's processors have NEON, all of them."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("asimd",)
    told = _cpuinfo("flags", "Features").split()
    return tuple(name for name in FEATURES if name in told)


def _cpuinfo(*names: str) -> str:
    """The first line of one of these names, of the first processor."""
    with (
        contextlib.suppress(OSError, UnicodeDecodeError),
        open("/proc/cpuinfo", encoding="utf-8") as lines,
    ):
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in names:
                return value.strip()
    return ""


def _disk_free_bytes() -> int:
    with contextlib.suppress(OSError, RuntimeError):
        return shutil.disk_usage(pathlib.Path.home()).free
    return 0


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def plain_name(text: str) -> str:
    """What can be shown of a name that a system or a driver gives."""
    printable = "".join(letter for letter in text if letter.isascii() and letter.isprintable())
    return " ".join(printable.split())[:NAME_CHARACTERS_MAX]
