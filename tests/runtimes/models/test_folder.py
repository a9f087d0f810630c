"""A folder is as many models as there are in it."""

import pathlib

import pytest
import trio

from runtimes.base import ChangeCallback, RuntimeFailure, Source
from runtimes.models.folder import ModelFolder
from runtimes.registry import make_source
from tests.helpers.test_runtime import ScriptedRuntime
from tests.helpers.test_runtime import create as create_scripted
from tests.runtimes.models.fake_disk import gguf, real_model, write
from tests.runtimes.serving import TIMEOUT_S, needs_llama

pytestmark = [pytest.mark.llama, needs_llama]


def names_in(source: Source) -> list[str]:
    """The names of a source's models that are up."""
    return sorted(runtime.card.name for runtime in source.runtimes if runtime.card is not None)


def test_every_model_is_served_and_a_bad_one_is_left_out(tmp_path: pathlib.Path) -> None:
    """Real models come up under their names; what llama.cpp refuses does not end the others."""
    real_model(tmp_path / "one.gguf")
    real_model(tmp_path / "below" / "one.gguf")
    write(tmp_path / "damaged.gguf", gguf())
    write(tmp_path / "text.gguf", b"This is no model.")
    write(tmp_path / "notes.txt", b"Nor is this.")
    source = make_source(str(tmp_path), {})
    assert len(source.runtimes) == 3
    changed = trio.Event()

    def on_change() -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.serve, on_change)
                while names_in(source) != ["below/one", "one"] or len(source.runtimes) != 2:
                    await changed.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_split_is_one_model(tmp_path: pathlib.Path) -> None:
    """And half of one is none."""
    for part in (1, 2):
        write(tmp_path / f"whole-{part:05}-of-00002.gguf", gguf())
    write(tmp_path / "half-00001-of-00002.gguf", gguf())
    assert len(make_source(str(tmp_path), {}).runtimes) == 1


@pytest.mark.parametrize("content", [{}, {"text.gguf": b"This is no model."}])
def test_a_folder_without_models_says_so(tmp_path: pathlib.Path, content: dict[str, bytes]) -> None:
    """One line that names the folder or the file."""
    for name, data in content.items():
        write(tmp_path / name, data)
    with pytest.raises(RuntimeFailure, match="no GGUF file") as failed:
        make_source(str(tmp_path), {})
    assert failed.value.code == "invalid_model"
    assert str(tmp_path) in failed.value.message


def test_when_all_are_given_up_the_folder_is(tmp_path: pathlib.Path) -> None:
    """The last one's reason is the folder's."""
    write(tmp_path / "a.gguf", gguf())
    write(tmp_path / "b.gguf", gguf())

    class Broken(ScriptedRuntime):
        async def serve(self, on_change: ChangeCallback) -> None:
            await trio.lowlevel.checkpoint()
            raise RuntimeFailure("invalid_model", "broken")

    source = ModelFolder(tmp_path, lambda path, options: make_broken(Broken))

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S), pytest.raises(RuntimeFailure, match="broken"):
            await source.serve(lambda: None)

    trio.run(main)
    assert source.runtimes == ()


def make_broken(kind: type[ScriptedRuntime]) -> ScriptedRuntime:
    """A scripted runtime of another class."""
    runtime = create_scripted("echo", options={})
    runtime.__class__ = kind
    return runtime
