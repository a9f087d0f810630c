"""How long a worker may be silent."""

import pathlib

import pytest
import trio
from trio.testing import MockClock

from runtimes.embedding import EMBED, GENERATE, RERANK, EmbedRequest
from runtimes.llama.frames import Ready
from runtimes.llama.link import WorkerLink
from runtimes.llama.pace import BATCH_TOKENS_MAX
from runtimes.llama.settings import LlamaSettings


@pytest.mark.parametrize(
    ("task", "context_tokens", "times"),
    [
        (GENERATE, 8 * BATCH_TOKENS_MAX, 1),
        (EMBED, BATCH_TOKENS_MAX // 2, 1),
        (EMBED, 8 * BATCH_TOKENS_MAX, 8),
        (RERANK, 8 * BATCH_TOKENS_MAX, 8),
    ],
)
def test_a_worker_may_be_silent_as_long_as_its_largest_decode(
    task: str, context_tokens: int, times: int
) -> None:
    """A long text is decoded in one piece, without a sign of life; a cancel waits for that, too."""
    settings = LlamaSettings(path=pathlib.Path("m.gguf"), name="m")
    ready = Ready(
        content_hash="ab" * 32,
        architecture="bert",
        parameters=1,
        quantization="F16",
        size_bytes=1,
        context_tokens=context_tokens,
        gpu_offload=False,
        slots=1,
        tasks=(task,),
    )

    async def main() -> None:
        link = WorkerLink(settings, memory_bytes=0, on_ready=lambda frame: None)
        link._handle(ready)
        now = trio.current_time()
        reply = link.start(EmbedRequest(model="m", texts=("a",)), on_end=lambda: None)
        assert link._deadline()[0] - now == times * settings.hang_timeout_s
        reply.leave()
        assert link._deadline()[0] - now == times * settings.cancel_timeout_s

    trio.run(main, clock=MockClock())
