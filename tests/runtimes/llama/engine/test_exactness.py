"""The worker's tokens, counts and text are llama.cpp's own.

The other side of the comparison is llama-cpp-python's high-level API in this process.
"""

import pathlib
from typing import Any

import pytest
import trio

from runtimes.base import ChatMessage
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import LlamaSettings
from tests.runtimes.serving import ask, complete, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]

TEXTS = [
    "Once upon a time there was the man in another town.",
    "\n\n  spaces   and\ttabs\r\n",
    "Grüße, 世界! 👩‍👩‍👧 \u202e",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "the " * 400,  # several batches of prompt
]


@pytest.fixture
def reference(demo: LlamaSettings) -> Any:  # noqa: ANN401  # the library is untyped here
    """llama-cpp-python's own view of the demo model."""
    from llama_cpp import Llama

    return Llama(str(demo.path), n_ctx=2048, n_threads=1, n_batch=512, verbose=False)


def test_prompts_are_tokenized_as_llama_cpp_does(
    demo: LlamaSettings,
    reference: Any,  # noqa: ANN401  # the library is untyped here
) -> None:
    """The ids in Started are llama.cpp's for the same text, special tokens parsed."""

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            for text in TEXTS:
                completion = await complete(runtime, ask(1, prompt=text))
                expected = reference.tokenize(text.encode(), add_bos=True, special=True)
                assert list(completion.prompt_ids) == expected

    trio.run(main)


def test_chats_are_rendered_by_the_models_template(
    demo: LlamaSettings,
    reference: Any,  # noqa: ANN401  # the library is untyped here
) -> None:
    """The prompt of a chat is the template's text, tokenized with its special tokens."""
    turns = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="assistant", content="Hello."),
        ChatMessage(role="user", content="Who?"),
    )
    text = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns)
    expected = reference.tokenize((text + "<|im_start|>assistant\n").encode(), special=True)

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            completion = await complete(runtime, ask(1, prompt=None, messages=turns))
            assert list(completion.prompt_ids) == expected

    trio.run(main)


def test_greedy_tokens_are_llama_cpps(
    demo: LlamaSettings,
    reference: Any,  # noqa: ANN401  # the library is untyped here
) -> None:
    """At temperature 0 each token is the one llama.cpp finds likeliest after those before it.

    Rounding differs with the shape of a batch, so a token within it of the best is as good.
    """

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            for text in (TEXTS[0], TEXTS[4]):
                completion = await complete(
                    runtime, ask(60, prompt=text, temperature=0.0, ignore_eos=False)
                )
                reference.reset()
                reference.eval(list(completion.prompt_ids))
                for token in completion.ids:
                    logits = reference._ctx.get_logits_ith(-1)[: reference.n_vocab()]
                    assert logits[token] >= max(logits) - 0.05
                    reference.eval([token])
                ended = completion.ids[-1] == reference.token_eos()
                assert completion.finished.finish_reason == ("stop" if ended else "length")

    trio.run(main)


def test_the_text_is_what_llama_cpp_makes_of_the_tokens(
    demo: LlamaSettings,
    reference: Any,  # noqa: ANN401  # the library is untyped here
) -> None:
    """For hot samples with bytes of all kinds: the text of the chunks is that of their ids."""

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            replaced = False
            for seed in range(5):
                hot = ask(300, temperature=20.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
                completion = await complete(runtime, hot)
                expected = reference.detokenize(completion.ids).decode("utf-8", "replace")
                assert expected.rstrip("\ufffd") == completion.text.rstrip("\ufffd")
                replaced = replaced or "\ufffd" in completion.text
            assert replaced, "the samples were too tame to show anything"

    trio.run(main)


def test_ignoring_the_end_of_turn_never_samples_it(
    demo: LlamaSettings,
    reference: Any,  # noqa: ANN401  # the library is untyped here
) -> None:
    """With ignore_eos no end token is among 1,500; without, the answer ends with its first."""
    ends = {reference.token_eos(), reference.token_bos()}

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            for temperature in (0.0, 0.8):
                completion = await complete(runtime, ask(1500, temperature=temperature))
                assert completion.finished.completion_tokens == 1500
                assert not ends & set(completion.ids)
            ended = 0
            for seed in range(20):
                completion = await complete(runtime, ask(200, seed=seed, ignore_eos=False))
                if completion.finished.finish_reason == "stop":
                    ended += 1
                    assert completion.ids[-1] in ends
                assert not ends & set(completion.ids[:-1])
            assert ended > 0

    trio.run(main)


def test_randomness_depends_on_seed_and_position_alone(demo: LlamaSettings) -> None:
    """Other seeds give other text; whoever goes on from a prefix goes on alike."""

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            texts = {(await complete(runtime, ask(40, seed=seed))).text for seed in range(5)}
            assert len(texts) == 5
            unseeded = {(await complete(runtime, ask(40, seed=None))).text for _ in range(3)}
            assert len(unseeded) == 3
            alike = 0
            for seed in range(8):
                first = await complete(runtime, ask(24, seed=seed))
                half = await complete(runtime, ask(12, seed=seed))
                prefix = f"{PREFIX}{half.text}"
                rest = await complete(runtime, ask(12, seed=seed, prompt=prefix))
                if len(rest.prompt_ids) == len(first.prompt_ids) + 12:
                    alike += first.text == half.text + rest.text
            assert alike > 0

    trio.run(main)


PREFIX = ask().prompt


def test_the_random_model_is_rebuilt_alike(tmp_path: pathlib.Path) -> None:
    """The builder writes the same bytes twice, and few of them."""
    pytest.importorskip("gguf", reason="the [dev] extra is not installed")
    from runtimes.llama.demo import build

    paths = [tmp_path / name for name in ("a.gguf", "b.gguf")]
    for path in paths:
        build.write(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size <= 400_000
