"""How long a worker may be silent, and how long a cancel may take."""

import pathlib

import pytest
import trio
from trio.testing import MockClock

from runtimes.embedding import EMBED, GENERATE, RERANK
from runtimes.llama.frames import Cancelled, Encoding, Failed, Frame, Prefilled, Ready
from runtimes.llama.pace import BATCH_TOKENS
from runtimes.llama.patience import Patience
from runtimes.llama.reply import Reply
from runtimes.llama.settings import LlamaSettings

SETTINGS = LlamaSettings(path=pathlib.Path("m.gguf"), name="m")


def ready(task: str = GENERATE, context_tokens: int = 8 * BATCH_TOKENS) -> Ready:
    """The worker of a model that is made for `task`."""
    return Ready(
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


def reply(number: int = 1) -> Reply:
    """A request in flight."""
    return Reply(
        number, on_end=lambda: None, on_credit=lambda *_: None, on_leave=lambda reply: None
    )


@pytest.mark.parametrize(
    ("task", "context_tokens", "times"),
    [
        (GENERATE, 8 * BATCH_TOKENS, 1),
        (EMBED, BATCH_TOKENS // 2, 1),
        (EMBED, 8 * BATCH_TOKENS, 8),
        (RERANK, 8 * BATCH_TOKENS, 8),
    ],
)
def test_a_worker_may_be_silent_as_long_as_its_largest_decode(
    task: str, context_tokens: int, times: int
) -> None:
    """A long text is decoded in one piece, without a sign of life; a cancel waits for that, too."""

    async def main() -> None:
        patience, asked, now = Patience(SETTINGS), reply(), trio.current_time()
        patience.note(ready(task, context_tokens))
        assert patience.deadline([asked])[0] - now == times * SETTINGS.hang_timeout_s
        asked.leave()
        assert patience.deadline([asked])[0] - now == times * SETTINGS.cancel_timeout_s

    trio.run(main, clock=MockClock())


@pytest.mark.parametrize(
    "end",
    [
        Prefilled(request=1, tokens=0),
        Failed(request=1, code="crashed", message="no"),
        Cancelled(request=1),
    ],
)
def test_an_image_has_its_time_and_whoever_waits_meanwhile(end: Frame) -> None:
    """Until it is encoded, whatever comes of others; then each cancel has its own time again."""

    async def main() -> None:
        patience, looking, other = Patience(SETTINGS), reply(1), reply(2)
        both = [looking, other]
        patience.note(ready())
        assert not patience.note(Encoding(request=1))
        now = trio.current_time()
        assert patience.deadline(both)[0] - now == SETTINGS.encode_timeout_s
        other.leave()
        assert patience.deadline(both)[0] - now == SETTINGS.encode_timeout_s
        assert not patience.note(Prefilled(request=2, tokens=1))
        assert patience.deadline([other])[0] - now == SETTINGS.encode_timeout_s
        later = now + 0.9 * SETTINGS.encode_timeout_s
        clock.jump(later - now)
        assert patience.note(end), "the deadline is nearer now"
        assert patience.deadline([looking])[0] - later == SETTINGS.hang_timeout_s
        assert patience.deadline([other])[0] - later == SETTINGS.cancel_timeout_s

    clock = MockClock()
    trio.run(main, clock=clock)
