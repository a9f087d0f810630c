"""Models over several GPUs: what they need there, and what llama.cpp is told. No GPU is needed."""

import dataclasses
import gc
import itertools
import pathlib

import pytest
import trio

from runtimes import hardware
from runtimes.hardware import Gpu
from runtimes.llama.engine.bindings import Handle, Parameters, load_bindings
from runtimes.llama.engine.model import open_model
from runtimes.llama.files import prospect
from runtimes.llama.files.fit import DEVICE_BYTES, needed_room
from runtimes.llama.frames import Load
from runtimes.llama.link import WorkerLink
from runtimes.llama.settings import LlamaSettings, read_settings
from runtimes.llama.split import MODES, Split
from runtimes.room import Room
from tests.runtimes.llama.files.test_fit import CAPACITY, WIDE
from tests.runtimes.serving import needs_llama

SIZE_BYTES = 16 * 10**9
LAYER_BYTES = (SIZE_BYTES + 8192 * WIDE.kv_bytes_per_token) / 33
SETTINGS = LlamaSettings(path=pathlib.Path("m.gguf"), name="m")


def vram(gpus: int, **split: object) -> int:
    """What a model of 8 billion parameters needs of so many GPUs, together."""
    settings = dataclasses.replace(SETTINGS, split=Split(**split))  # type: ignore[arg-type]  # by name
    return needed_room(WIDE, settings, SIZE_BYTES, CAPACITY, gpus=gpus).vram_bytes


def test_each_gpu_has_its_own_buffers_and_an_unfilled_rest() -> None:
    """The weights are there once, however many GPUs there are."""
    one, two, four = vram(1), vram(2), vram(4)
    more = two - one
    assert DEVICE_BYTES + LAYER_BYTES < more < 2 * DEVICE_BYTES + LAYER_BYTES
    assert four - one == pytest.approx(3 * more, abs=4)


@pytest.mark.parametrize(
    ("split", "there", "used"),
    [
        ({}, 3, 3),
        ({"mode": MODES["none"]}, 3, 1),
        ({"mode": MODES["none"]}, 0, 0),
        ({"mode": MODES["row"], "main_gpu": 2}, 3, 3),
        ({"shares": (3.0, 1.0)}, 3, 2),
        ({"shares": (0.0, 1.0)}, 3, 1),
        ({"shares": (1.0, 1.0, 1.0)}, 2, 2),
        ({"shares": (0.0, 0.0, 1.0)}, 2, 2),
    ],
)
def test_only_the_gpus_that_are_used_count(split: dict[str, object], there: int, used: int) -> None:
    """By the mode, and by the shares of those that are there."""
    assert Split(**split).devices(there) == used  # type: ignore[arg-type]  # by name
    if used:
        assert vram(there, **split) == vram(used)


@pytest.mark.llama
@needs_llama
def test_what_fits_on_several_gpus_together_is_offered(
    random_model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the devices that this build can use; else all is ordinary memory."""
    gpus = tuple(Gpu(name="GPU", vram_bytes=8 * 10**9, vram_free_bytes=3 * 10**8) for _ in "abc")
    monkeypatch.setattr(hardware, "gpus", lambda: gpus)
    monkeypatch.delenv(hardware.VISIBLE_VARIABLE, raising=False)
    settings = read_settings(str(random_model), {})
    assert prospect.look(settings, None).need.vram_bytes == 0
    monkeypatch.setattr(prospect, "has_gpu_build", lambda: True)
    needs: list[Room] = []
    for count in ("0", "0,1", "0,1,2"):
        monkeypatch.setenv(hardware.VISIBLE_VARIABLE, count)
        needs.append(prospect.look(settings, None).need)
    steps = [after.vram_bytes - before.vram_bytes for before, after in itertools.pairwise(needs)]
    assert all(step > DEVICE_BYTES for step in steps)
    assert {need.memory_bytes for need in needs} == {needs[0].memory_bytes}
    free = hardware.free_room(with_gpus=True)
    assert free.vram_bytes == 9 * 10**8


@pytest.mark.llama
@needs_llama
def test_llama_cpp_is_told() -> None:
    """In its structure of parameters, whose numbers live as long as it does; what was not asked
    for keeps llama.cpp's own values.
    """
    bindings = load_bindings()
    plain, told = (bindings.llama_model_default_params() for _ in range(2))
    Split().fill(bindings, plain)
    assert (plain.split_mode, plain.main_gpu, bool(plain.tensor_split)) == (1, 0, False)
    Split(mode=MODES["row"], main_gpu=2, shares=(3.0, 1.5)).fill(bindings, told)
    gc.collect()
    assert (told.split_mode, told.main_gpu) == (bindings.LLAMA_SPLIT_MODE_ROW, 2)
    count = bindings.llama_max_devices()
    assert [told.tensor_split[at] for at in range(count)] == [3.0, 1.5] + [0.0] * (count - 2)
    assert MODES == {
        "none": bindings.LLAMA_SPLIT_MODE_NONE,
        "layer": bindings.LLAMA_SPLIT_MODE_LAYER,
        "row": bindings.LLAMA_SPLIT_MODE_ROW,
    }


@pytest.mark.llama
@needs_llama
def test_a_split_reaches_the_call_that_loads_the_model(
    random_model: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a model's options by the frame that loads it; where there is no GPU it is loaded all
    the same.
    """
    options = {"split_mode": "layer", "main_gpu": "1", "tensor_split": "2/1"}
    settings = read_settings(str(random_model), options)

    async def load_frame() -> Load:
        return WorkerLink(settings, memory_bytes=0, on_ready=lambda frame: None)._load_frame()

    load = trio.run(load_frame)
    assert (load.split_mode, load.main_gpu, load.tensor_split) == (1, 1, (2.0, 1.0))
    bindings = load_bindings()
    load_from_file = bindings.llama_model_load_from_file
    told: list[tuple[int, int, list[float]]] = []

    def note(path: bytes, parameters: Parameters) -> Handle:
        shares = [parameters.tensor_split[at] for at in range(3)]
        told.append((parameters.split_mode, parameters.main_gpu, shares))
        return load_from_file(path, parameters)

    monkeypatch.setattr(bindings, "llama_model_load_from_file", note)
    assert open_model(load, lambda share: None).tokens_known > 0
    assert told == [(1, 1, [2.0, 1.0, 0.0])]
