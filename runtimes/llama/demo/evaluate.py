"""The one place that measures the demo model: how many questions it answers rightly.

    python -m runtimes.llama.demo.evaluate [FILE.gguf]

The file runs in the real runtime, in its worker process. Its own questions are drawn as training
draws them, with another seed: right is the topic's answer, word for word. Held-out questions are
right by the rule in `heldout.json`; strangers' questions by the rule in `strangers.json`, and of
those only totals are ever shown: whoever improves the model must not learn from them. Either way
the answer must end its turn by itself.
"""

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import AsyncIterator

import trio

from runtimes.base import ChatMessage, Chunk, Finished, GenerateRequest
from runtimes.llama.demo import corpus
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import DEMO_FILE, read_settings

OWN_SEED = 990_001
OWN_QUESTIONS = 500
ANSWER_TOKENS_MAX = 120
ANSWER_S_MAX = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and whether it stopped by itself."""

    text: str
    ended: bool


class Asker:
    """One model, asked one question after another."""

    def __init__(self, runtime: LlamaRuntime) -> None:
        self._runtime = runtime

    async def ask(self, question: str, *, temperature: float = 0.0, seed: int | None = 0) -> Answer:
        """The answer to a question that stands alone. Raises RuntimeFailure, trio.TooSlowError."""
        request = GenerateRequest(
            model="demo",
            messages=(ChatMessage(role="user", content=question),),
            max_tokens=ANSWER_TOKENS_MAX,
            temperature=temperature,
            seed=seed,
        )
        text, ended = "", False
        with trio.fail_after(ANSWER_S_MAX):
            async with contextlib.aclosing(self._runtime.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Chunk):
                        text += event.text
                    elif isinstance(event, Finished):
                        ended = event.finish_reason == "stop"
        return Answer(text, ended)


@contextlib.asynccontextmanager
async def asking(path: pathlib.Path) -> AsyncIterator[Asker]:
    """Serve the file and hand out who asks it."""
    runtime = LlamaRuntime(read_settings(str(path), {}))
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.serve, ready.set)
        with trio.fail_after(ANSWER_S_MAX):
            await ready.wait()
        yield Asker(runtime)
        nursery.cancel_scope.cancel()


async def count_own(asker: Asker, *, temperature: float) -> tuple[int, int]:
    """How many of how many own questions are answered rightly."""
    right = 0
    for number, example in enumerate(
        itertools.islice(corpus.load().examples(OWN_SEED), OWN_QUESTIONS)
    ):
        answer = await asker.ask(example.question, temperature=temperature, seed=number)
        right += answer.ended and answer.text.strip() == example.answer
    return right, OWN_QUESTIONS


async def count_heldout(
    asker: Asker, file: str, *, is_offtopic: bool, temperature: float, aloud: bool
) -> tuple[int, int]:
    """How many of how many questions of the file are answered rightly."""
    right = asked = 0
    for number, question in enumerate(corpus.load_heldout(file)):
        if question.is_offtopic != is_offtopic:
            continue
        answer = await asker.ask(question.question, temperature=temperature, seed=number)
        is_right = answer.ended and question.accepts(answer.text)
        asked += 1
        right += is_right
        if aloud:
            print(f"{'right' if is_right else 'WRONG'}  {question.question}\n       {answer.text}")
    return right, asked


async def report(path: pathlib.Path, *, aloud: bool) -> None:
    """Print the figures of the model card."""
    async with asking(path) as asker:
        for temperature in (0.0, 0.8):
            right, asked = await count_own(asker, temperature=temperature)
            _say(temperature, "own questions", right, asked)
            for file, is_offtopic in itertools.product(
                (corpus.HELDOUT, corpus.STRANGERS), (False, True)
            ):
                right, asked = await count_heldout(
                    asker,
                    file,
                    is_offtopic=is_offtopic,
                    temperature=temperature,
                    aloud=aloud and temperature == 0.0 and file == corpus.HELDOUT,
                )
                whose = "held-out" if file == corpus.HELDOUT else "strangers'"
                _say(temperature, f"{whose} {'off-topic ' * is_offtopic}questions", right, asked)


def _say(temperature: float, what: str, right: int, asked: int) -> None:
    print(f"temperature {temperature}: {right} of {asked} {what} right", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=pathlib.Path, nargs="?", default=DEMO_FILE)
    parser.add_argument("--answers", action="store_true", help="print the held-out answers too")
    arguments = parser.parse_args()
    trio.run(lambda: report(arguments.file, aloud=arguments.answers))


if __name__ == "__main__":
    main()
