"""What can be a draft, and what is refused; a worker has one."""

import pathlib

import pytest
import trio

from runtimes.base import RuntimeFailure
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.runtimes.serving import TIMEOUT_S, ask, complete, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]


@pytest.mark.parametrize("what", ["vocabulary", "recurrent draft", "recurrent model", "no model"])
def test_what_cannot_be_a_draft_is_refused(
    what: str, random_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """In one line that says which file and what to do, and not again and again."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build
    from tests.helpers import draft_models
    from tests.runtimes.models.fake_disk import gguf as no_model

    model, draft = random_model, tmp_path / "draft.gguf"
    match what:
        case "vocabulary":
            draft_models.write_other(draft, MERGES=[*build.MERGES[:-1], "Ġ o"])
        case "recurrent draft":
            draft_models.write_mamba(draft)
        case "recurrent model":
            model = tmp_path / "mamba.gguf"
            draft_models.write_mamba(model)
            draft_models.write_other(draft)
        case _:
            draft.write_bytes(no_model())

    async def main() -> None:
        runtime = LlamaRuntime(read_settings(str(model), {"draft": str(draft)}))
        with pytest.raises(RuntimeFailure) as failed:
            with trio.fail_after(TIMEOUT_S):
                await runtime.serve(lambda: None)
        assert failed.value.code == "invalid_model"
        assert str(model if what == "recurrent model" else draft) in failed.value.message
        assert "\n" not in failed.value.message

    trio.run(main)


def test_a_worker_has_a_draft(random_model: pathlib.Path) -> None:
    """Asked through a runtime, with and without: the same model to the mesh, the same words."""

    async def main(options: dict[str, str]) -> tuple[str, str]:
        runtime = LlamaRuntime(read_settings(str(random_model), options))
        async with serving(runtime):
            completion = await complete(runtime, ask(200, temperature=0.0))
            assert runtime.card is not None
            return runtime.card.content_hash, completion.text

    draft = {"draft": str(random_model), "draft_tokens": "5"}
    assert trio.run(main, draft) == trio.run(main, {})
