"""The one place that trains the demo model. Needs torch, which is no dependency of the package.

    pip install torch==2.13.0 gguf
    python -m runtimes.llama.demo.train FOLDER --minutes 60
    python -m runtimes.llama.demo.export FOLDER/weights.npz FILE.gguf

Loss is on the answer and its end of turn alone. The learning rate follows the clock, so that a
run ends after `--minutes` of training on any machine; a run that was broken off goes on from the
last checkpoint in FOLDER. `weights.npz` holds the moving average of the weights and the tokenizer.
"""

import argparse
import itertools
import math
import pathlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtimes.llama.demo import corpus, shape, tokenizer
from runtimes.llama.demo.corpus import Corpus, Example
from runtimes.llama.demo.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch  # type: ignore[import-not-found,unused-ignore]  # installed for training only

SEED = 7
TOKENIZER_EXAMPLES = 20_000
TOKENIZER_ANSWER_WEIGHT = 40
"""How often each answer counts beside the questions when merges are learned."""
BATCH = 64
POOL = 16 * BATCH
"""Examples that are sorted by length before they are cut into batches: little padding."""
WHOLE_ANSWER_SHARE = 0.2
"""Other answers are cut after `ANSWER_BEGIN` tokens: the rest follows from those by heart."""
ANSWER_BEGIN = 8
RATE = 1.5e-3
WARM_UP_S = 60.0
FINAL_RATE_SHARE = 0.02
WEIGHT_DECAY = 0.1
AVERAGE_DECAY = 0.998
IGNORED = -100
"""The target where no loss is taken."""
ROUND_LENGTH = 8
ROUND_POSITIONS = 256
"""Few shapes: oneDNN compiles a kernel for each new one, which costs more than some padding."""
CHECKPOINT_S = 120.0
REPORT_STEPS = 50
Batch = tuple["torch.Tensor", "torch.Tensor"]
"""Token ids, and the same with IGNORED where no loss is taken; both (batch, length)."""


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=pathlib.Path, help="for checkpoints and the result")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    Training(arguments.folder, budget_s=60 * arguments.minutes).run()


class Training:
    """One run: the network, its optimizer, its average, and the clock."""

    def __init__(self, folder: pathlib.Path, *, budget_s: float) -> None:
        import torch

        from runtimes.llama.demo.network import Network

        self._file = folder / "checkpoint.pt"
        self._result = folder / "weights.npz"
        self._budget_s = budget_s
        self._corpus = corpus.load()
        saved = _saved(self._file)
        self._tokenizer = (
            Tokenizer.from_json(saved["tokenizer"]) if saved else make_tokenizer(self._corpus)
        )
        self._network = Network(len(self._tokenizer.tokens))
        self._average: dict[str, torch.Tensor] = {
            name: weight.detach().clone() for name, weight in self._network.weights.items()
        }
        matrices = [weight for weight in self._network.parameters() if weight.ndim > 1]
        norms = [weight for weight in self._network.parameters() if weight.ndim == 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": norms, "weight_decay": 0.0}],
            lr=RATE,
            betas=(0.9, 0.98),
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self._trained_s = 0.0
        self._steps = 0
        self._tokens = 0
        if saved:
            self._resume(saved)

    def run(self) -> None:
        """Train until the time is over; write the result."""
        seed = SEED + 1_000_003 * (self._steps + 1)  # new examples after a resumption
        losses: list[float] = []
        saved_at = last = time.monotonic()
        for ids, targets in batches(self._corpus, self._tokenizer, seed):
            losses.append(self._step(ids, targets))
            now = time.monotonic()
            self._trained_s += now - last
            last = now
            if self._steps % REPORT_STEPS == 0:
                self._report(sum(losses) / len(losses))
                losses.clear()
            if now - saved_at > CHECKPOINT_S or self._trained_s >= self._budget_s:
                self._save()
                saved_at = now
            if self._trained_s >= self._budget_s:
                break

    def _step(self, ids: "torch.Tensor", targets: "torch.Tensor") -> float:
        import torch
        from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]  # as above

        rate = rate_at(self._trained_s, self._budget_s)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self._network(ids[:, :-1])
            judged, wanted = chosen_positions(targets[:, 1:].reshape(-1))
            scores = self._network.logits(states.reshape(-1, states.shape[-1])[judged])
        loss = functional.cross_entropy(scores.float(), wanted)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._steps += 1
        self._tokens += ids.numel()
        decay = min(AVERAGE_DECAY, self._steps / (self._steps + 100))
        with torch.no_grad():
            for name, weight in self._network.weights.items():
                self._average[name].lerp_(weight, 1.0 - decay)
        return float(loss.item())

    def _report(self, loss: float) -> None:
        speed = self._tokens / max(self._trained_s, 1e-9)
        print(
            f"{self._trained_s:7.0f} s  step {self._steps:6}  loss {loss:.4f}  "
            f"{self._tokens / 1e6:.2f} M tokens  {speed:.0f} tokens/s",
            flush=True,
        )

    def _save(self) -> None:
        import numpy
        import torch

        partial = self._file.with_suffix(".new")
        state = {
            "network": self._network.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "trained_s": self._trained_s,
            "steps": self._steps,
            "tokens": self._tokens,
            "tokenizer": self._tokenizer.to_json(),
        }
        torch.save(state, partial)
        partial.replace(self._file)
        arrays: dict[str, Any] = {
            name.replace("__", "."): weight.numpy() for name, weight in self._average.items()
        }
        partial = self._result.with_suffix(".new.npz")
        numpy.savez(partial, tokenizer=self._tokenizer.to_json(), **arrays)
        partial.replace(self._result)

    def _resume(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._average = state["average"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._trained_s = state["trained_s"]
        self._steps = state["steps"]
        self._tokens = state["tokens"]


def _saved(file: pathlib.Path) -> dict[str, Any]:
    """The checkpoint, or nothing."""
    import torch

    return dict(torch.load(file)) if file.exists() else {}


def make_tokenizer(source: Corpus) -> Tokenizer:
    """The tokenizer that the corpus teaches."""
    drawn = itertools.islice(source.examples(SEED), TOKENIZER_EXAMPLES)
    questions = [example.question for example in drawn]
    answers = list(source.answers.values()) * TOKENIZER_ANSWER_WEIGHT
    return tokenizer.train([*questions, *answers, *[tokenizer.SYSTEM_PROMPT] * 100])


def rate_at(trained_s: float, budget_s: float) -> float:
    """The learning rate: up in the first seconds, then down along a cosine."""
    warm = min(1.0, (trained_s + 1.0) / WARM_UP_S)
    done = min(1.0, trained_s / budget_s)
    wave = 0.5 * (1.0 + math.cos(math.pi * done))
    return RATE * warm * (FINAL_RATE_SHARE + (1.0 - FINAL_RATE_SHARE) * wave)


def batches(source: Corpus, words: Tokenizer, seed: int) -> Iterator[Batch]:
    """Endless batches of examples of about the same length."""
    import random

    rng = random.Random(seed)  # noqa: S311  # nothing here is secret
    examples = source.examples(seed)
    while True:
        drawn = (_row(next(examples), words, rng) for _ in itertools.count())
        short = (row for row in drawn if len(row[0]) <= shape.TRAINED_TOKENS)
        rows = list(itertools.islice(short, POOL))
        rows.sort(key=lambda row: len(row[0]))
        cuts = list(range(0, POOL, BATCH))
        rng.shuffle(cuts)
        for cut in cuts:
            yield _padded(rows[cut : cut + BATCH])


def _row(example: Example, words: Tokenizer, rng: Any) -> tuple[list[int], int]:  # noqa: ANN401
    """An example's ids, and how many of them are the prompt."""
    prompt = words.prompt(example.question)
    reply = words.reply(example.answer)
    if rng.random() >= WHOLE_ANSWER_SHARE:
        reply = reply[:ANSWER_BEGIN]
    return prompt + reply, len(prompt)


def chosen_positions(targets: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """The positions with a loss and their targets, filled up to a multiple of `ROUND_POSITIONS`."""
    import torch

    judged = torch.nonzero(targets != IGNORED).squeeze(1)
    missing = -len(judged) % ROUND_POSITIONS
    positions = torch.cat((judged, judged.new_zeros(missing)))
    wanted = torch.cat((targets[judged], targets.new_full((missing,), IGNORED)))
    return positions, wanted


def _padded(rows: list[tuple[list[int], int]]) -> Batch:
    import torch

    length = max(len(ids) for ids, _ in rows)
    length += -(length - 1) % ROUND_LENGTH
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for index, (row, prompt) in enumerate(rows):
        values = torch.tensor(row)
        ids[index, : len(row)] = values
        targets[index, prompt : len(row)] = values[prompt:]
    return ids, targets


if __name__ == "__main__":
    main()
