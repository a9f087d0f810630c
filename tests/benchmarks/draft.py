"""What a draft gains and costs: one stream with and without, by how often the draft is right.

The model is the 85 M one of tests.benchmarks.engine (F16, random weights). Such a model agrees
with no other, so agreement is made: its draft is a copy of its first two layers, and what the
layers behind them add is scaled down until draft and model agree often. That changes no figure
but how often the draft is right: the same weights are read and multiplied. A real pair agrees as
often as it does; its line is the one with about that share. `useless` is a small model with other
weights. All engines are in this process and are asked in turn, by the same prompts of 16 tokens.
Figures are of processor time, so that other programs disturb them little; with one thread that is
what would pass on an idle machine.

Run: python -m tests.benchmarks.draft [--runs 3] [--tokens 128] [--threads 1] [--draft-tokens 8]
"""

import argparse
import dataclasses
import os
import pathlib
import random
import statistics
import tempfile
import time

import numpy
import pytest

from runtimes.llama.demo import build
from runtimes.llama.engine.engine import Engine
from tests.benchmarks.engine import SHAPE, prompt_of
from tests.runtimes.llama.engines import generate, make_engine, run

LAYERS = 2
"""Of the draft."""
SCALES = (0.0, 0.03, 0.06)
TEMPERATURES = (0.0, 0.8)
CONTEXT_TOKENS = 1024


def write_model(path: pathlib.Path, scale: float) -> None:
    """The model, with what the layers that its draft has not add to a token scaled."""
    made = build.tensors(SHAPE)
    for name, weight in made.items():
        is_writer = name.endswith(("attn_output.weight", "ffn_down.weight"))
        if is_writer and int(name.split(".")[1]) >= LAYERS:
            made[name] = (weight.astype(numpy.float32) * scale).astype(weight.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "tensors", lambda _shape: made)
        build.write(path, SHAPE)


def seconds_per_token(engine: Engine, tokens: int, run_number: int, temperature: float) -> float:
    """Processor time for each token of one answer, prompt included."""
    prompt = prompt_of(16, random.Random(run_number))
    request = generate(
        1, prompt=prompt, max_tokens=tokens, temperature=temperature, seed=run_number
    )
    started = time.process_time()
    (outcome,) = run(engine, request)
    assert len(outcome.ids) == tokens
    return (time.process_time() - started) / tokens


def measure(
    name: str, model: pathlib.Path, draft: pathlib.Path, arguments: argparse.Namespace
) -> None:
    """One line for each temperature."""
    sizes = {"context_tokens": CONTEXT_TOKENS, "threads": arguments.threads, "slots": 1}
    plain = make_engine(model, **sizes)
    drafted = make_engine(
        model, draft=os.fsencode(draft), draft_tokens=arguments.draft_tokens, **sizes
    )
    for temperature in TEMPERATURES:
        spoken = drafted.speculation
        proposed, accepted = spoken.proposed, spoken.accepted
        before, after = [], []
        for number in range(arguments.runs):
            before.append(seconds_per_token(plain, arguments.tokens, number, temperature))
            after.append(seconds_per_token(drafted, arguments.tokens, number, temperature))
        proposed, accepted = spoken.proposed - proposed, spoken.accepted - accepted
        tokens = arguments.runs * arguments.tokens
        ratio = statistics.median(one / two for one, two in zip(before, after, strict=True))
        print(
            f"{name:16}{temperature:>12}{1 / statistics.median(before):>14.1f}"
            f"{1 / statistics.median(after):>14.1f}{ratio:>8.2f}"
            f"{proposed / tokens:>12.2f}{accepted / max(1, proposed):>10.2f}"
            f"{os.getloadavg()[0]:>7.1f}",
            flush=True,
        )


def main() -> None:
    """Measure all pairs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draft-tokens", type=int, default=8)
    arguments = parser.parse_args()
    print(
        f"{'draft':16}{'temperature':>12}{'tokens/CPU s':>14}{'with draft':>14}{'ratio':>8}"
        f"{'tried/token':>12}{'accepted':>10}{'load':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        model, draft, useless = (
            pathlib.Path(folder) / f"{name}.gguf" for name in ("model", "draft", "useless")
        )
        build.write(draft, dataclasses.replace(SHAPE, layers=LAYERS))
        build.write(useless)
        write_model(model, 1.0)
        measure("useless", model, useless, arguments)
        for scale in SCALES:
            write_model(model, scale)
            measure(f"layers * {scale:g}", model, draft, arguments)


if __name__ == "__main__":
    main()
