"""What this machine has, asked of machines that have little."""

import dataclasses
import json
import platform
import sys
import types
from typing import Any

import msgpack
import psutil
import pytest

from runtimes import hardware
from runtimes.hardware import Gpu, Hardware

GIB = 1024**3


def fake_nvml(devices: list[tuple[str | bytes, int]]) -> types.ModuleType:
    """A pynvml with these GPUs."""
    module = types.ModuleType("pynvml")
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(devices),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: devices[handle][0],
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle:04x}",
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(
            total=devices[handle][1], free=devices[handle][1] // 2
        ),
    }
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def machine(*, memory: int = 8 * GIB, cores: int = 4, gpus: tuple[Gpu, ...] = ()) -> Hardware:
    """A made-up machine."""
    return Hardware(
        os="Linux x86_64",
        cpu="cpu",
        cores=cores,
        memory_bytes=memory,
        memory_available_bytes=memory // 2,
        gpus=gpus,
    )


def test_a_snapshot_of_this_machine_is_sane() -> None:
    """Some core, some memory, a tier."""
    seen = hardware.snapshot()
    assert seen.cores >= 1
    assert 0 < seen.memory_available_bytes <= seen.memory_bytes
    assert seen.tier in (1, 2, 3)
    assert seen.os


def test_no_nvml_library_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may be absent."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert hardware.gpus() == ()
    assert hardware.snapshot().gpus == ()


def test_a_driver_that_fails_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver, a version mismatch, a GPU that fell off the bus: all the same answer."""
    for function in ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo", "nvmlShutdown"):
        module = fake_nvml([("GPU", 8 * GIB)])

        def fail(*_: object) -> None:
            raise RuntimeError("NVML is not well")

        setattr(module, function, fail)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        assert hardware.gpus() == ()


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come as bytes from old libraries, as text from new ones."""
    devices: list[tuple[str | bytes, int]] = [(b"Old\x00 GPU", 4 * GIB), ("New GPU", 24 * GIB)]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(devices))
    assert hardware.gpus() == (
        Gpu(name="Old GPU", vram_bytes=4 * GIB, vram_free_bytes=2 * GIB, uuid="GPU-0000"),
        Gpu(name="New GPU", vram_bytes=24 * GIB, vram_free_bytes=12 * GIB, uuid="GPU-0001"),
    )
    assert hardware.snapshot().tier == 1


def test_gpus_are_asked_how_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load, temperature and power, each where the driver tells it."""
    module = fake_nvml([("GPU", 8 * GIB)])
    functions = {
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=37, memory=5),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61 if sensor == 0 else None,
    }
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    [gpu] = hardware.gpus()
    assert (gpu.load_percent, gpu.temperature_c, gpu.power_w) == (37, 61, None)
    module.nvmlDeviceGetPowerUsage = lambda handle: 250_999  # type: ignore[attr-defined]
    status: Any = hardware.snapshot().to_status()
    assert (status["gpus"][0]["load_percent"], status["gpus"][0]["power_w"]) == (37, 250)


def test_gpus_of_other_makers_are_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama.cpp sees them; one that NVML sees as well is one."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([("RTX", 8 * GIB)]))
    other = Gpu(name="Radeon", vram_bytes=16 * GIB, vram_free_bytes=GIB)
    same = Gpu(name="RTX", vram_bytes=8 * GIB, vram_free_bytes=GIB)
    assert [gpu.name for gpu in hardware.snapshot([same, other, other]).gpus] == [
        *("RTX", "Radeon", "Radeon")
    ]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert hardware.snapshot([other]).tier == 1


def test_what_a_processor_can_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What llama.cpp has code for, in one order; nothing where the kernel says nothing."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    told = "fpu sse2 f16c avx2 avx"
    monkeypatch.setattr(hardware, "_cpuinfo", lambda *names: told if "flags" in names else "")
    assert hardware.snapshot().cpu_features == ("avx", "avx2", "f16c")
    monkeypatch.setattr(hardware, "_cpuinfo", lambda *names: "")
    assert hardware.snapshot().cpu_features == ()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert hardware.snapshot().cpu_features == ("asimd",)


@pytest.mark.parametrize(
    ("changes", "is_news"),
    [
        ({}, False),
        ({"memory_available_bytes": 6 * GIB}, False),
        ({"memory_available_bytes": 5 * GIB}, True),
        ({"disk_free_bytes": 100 * GIB}, True),
        ({"on_battery": True}, True),
        ({"cpu": "another"}, True),
        ({"gpus": (Gpu(name="G", vram_bytes=8 * GIB, vram_free_bytes=7 * GIB),)}, False),
        ({"gpus": (Gpu(name="G", vram_bytes=8 * GIB, vram_free_bytes=GIB),)}, True),
        ({"gpus": (Gpu(name="H", vram_bytes=8 * GIB, vram_free_bytes=8 * GIB),)}, True),
        ({"gpus": ()}, True),
        ({"cores": 8}, True),
    ],
)
def test_a_little_more_or_less_is_no_news(changes: dict[str, object], is_news: bool) -> None:
    """Of what is free; everything else is, and so is a machine of which nothing was told."""
    gpu = Gpu(name="G", vram_bytes=8 * GIB, vram_free_bytes=8 * GIB)
    before = dataclasses.replace(
        machine(memory=16 * GIB, gpus=(gpu,)),
        memory_available_bytes=8 * GIB,
        disk_free_bytes=10 * GIB,
    )
    now = dataclasses.replace(before, **changes)  # type: ignore[arg-type]  # by name
    assert hardware.differs(before.to_record(), now.to_record()) == is_news
    assert hardware.differs({}, before.to_record())


@pytest.mark.parametrize(
    ("named", "usable"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        (" 2 , 0", [2, 0]),
        ("GPU-0001", [1]),
        ("GPU-0001,0", [1, 0]),
        ("", []),
        ("-1", []),
        ("0,7,1", [0]),
        ("GPU-", []),
        ("0,0", [0]),
        ("9" * 5000, []),
    ],
)
def test_models_have_the_memory_of_those_gpus_that_they_may_use(
    monkeypatch: pytest.MonkeyPatch, named: str | None, usable: list[int]
) -> None:
    """By CUDA's variable, as CUDA reads it: the first that is none ends the list."""
    sizes = [8 * GIB, 24 * GIB, 4 * GIB]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([("GPU", size) for size in sizes]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [gpu.vram_bytes for gpu in hardware.usable_gpus()] == [sizes[each] for each in usable]
    free = hardware.free_room(with_gpus=True)
    assert free.vram_bytes == sum(sizes[each] // 2 for each in usable)
    assert hardware.free_room(with_gpus=False).vram_bytes == 0
    assert len(hardware.gpus()) == 3, "the machine has them all the same"


@pytest.mark.parametrize(
    ("battery", "is_on"),
    [
        (None, False),
        (types.SimpleNamespace(power_plugged=True), False),
        (types.SimpleNamespace(power_plugged=False), True),
        (types.SimpleNamespace(power_plugged=None), False),
    ],
)
def test_a_battery_counts_only_where_it_is_known_to_be_used(
    monkeypatch: pytest.MonkeyPatch, battery: object, is_on: bool
) -> None:
    """No battery, a charging one, one that cannot tell; and systems that psutil cannot ask."""
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert hardware.is_on_battery() is is_on
    monkeypatch.delattr(psutil, "sensors_battery")
    assert not hardware.is_on_battery()


def test_a_psutil_that_fails_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked-down system still gives an answer."""

    def fail(**_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    monkeypatch.setattr(psutil, "cpu_count", fail)
    seen = hardware.snapshot()
    assert (seen.memory_bytes, seen.cores, seen.tier) == (0, 1, 3)


@pytest.mark.parametrize(
    ("seen", "tier"),
    [
        (machine(gpus=(Gpu(name="g", vram_bytes=8188 * 1024**2, vram_free_bytes=0),)), 1),
        (machine(gpus=(Gpu(name="g", vram_bytes=6 * GIB, vram_free_bytes=0),)), 2),
        (machine(memory=int(3.8 * GIB), cores=2), 2),
        (machine(memory=64 * GIB, cores=1), 3),
        (machine(memory=2 * GIB, cores=8), 3),
    ],
)
def test_tiers(seen: Hardware, tier: int) -> None:
    """A GPU with 8 GB; 4 GB of memory with 2 cores; less."""
    assert seen.tier == tier


def test_the_record_is_small_however_large_the_machine() -> None:
    """Sixteen GPUs of many kinds and the longest names stay below 600 bytes."""
    gpus = tuple(
        Gpu(name="é" * 60 + str(index % 6), vram_bytes=2**40 + index % 6, vram_free_bytes=2**40)
        for index in range(16)
    )
    largest = Hardware(
        os="ö" * 200,
        cpu="ü" * 200,
        cores=2**31,
        memory_bytes=2**50,
        memory_available_bytes=2**50,
        gpus=gpus,
        cpu_features=hardware.FEATURES,
        disk_free_bytes=2**60,
    )
    record = largest.to_record()
    assert len(msgpack.packb(record)) < 600
    assert json.loads(json.dumps(record)) == record


def test_equal_gpus_are_one_entry() -> None:
    """Eight of a kind are counted, their free memory added."""
    gpus = tuple(Gpu(name="H", vram_bytes=10, vram_free_bytes=index) for index in range(8))
    record = machine(gpus=gpus).to_record()
    assert record["gpus"] == [{"name": "H", "count": 8, "vram_bytes": 10, "vram_free_bytes": 28}]
