"""What a model is made for: read from its file, it is what the worker finds."""

import pathlib

import pytest
import trio

from runtimes.embedding import EMBED, RERANK
from runtimes.llama.files.prospect import look
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import read_settings
from tests.runtimes.serving import TIMEOUT_S, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]


@pytest.mark.parametrize(
    ("pooling", "task"), [("MEAN", EMBED), ("CLS", EMBED), ("LAST", EMBED), ("RANK", RERANK)]
)
def test_a_cold_model_that_makes_vectors_is_offered_as_what_it_will_be(
    tmp_path: pathlib.Path, pooling: str, task: str
) -> None:
    """The same task and the same context, before it is loaded and after."""
    import gguf

    from tests.helpers.embedding_models import write_bert, write_causal

    path = tmp_path / "m.gguf"
    write = write_causal if pooling == "LAST" else write_bert
    write(path, gguf.PoolingType[pooling])
    settings = read_settings(str(path), {})
    before = look(settings, None).card
    runtime = LlamaRuntime(settings)

    async def main() -> None:
        with trio.fail_after(TIMEOUT_S):
            async with serving(runtime):
                after = runtime.card
                assert after is not None
                told = (before.tasks, before.context_tokens, before.architecture)
                assert told == (after.tasks, after.context_tokens, after.architecture)
                assert after.tasks == (task,)

    trio.run(main)
