"""How often an answer that is cut and continued elsewhere goes on as if it had not been cut.

Answers of the demo model are made by one engine while other requests run beside them, cut in many
places, and continued from their token ids by another engine, again with others beside. Counted are
the cuts behind which every token is that of the unbroken answer. Asked are questions of the
model's own subject, of whose answers it is certain, and heaps of words, where it is not. On its
subject reproducible engines must have all cuts seamless, greedy ones 99 of 100. The rest is only
told: rounding depends on the shape of a batch, and a draw may fall on the border of two tokens.

Run: python -m tests.benchmarks.continuation [--prompts 25] [--cuts 8] [--model FILE.gguf]
The exit status is 1 when a share is too low.
"""

import argparse
import functools
import json
import pathlib
import random
import statistics
import sys

from runtimes.llama.engine.engine import Engine
from runtimes.llama.frames import Generate
from runtimes.llama.settings import DEMO_FILE
from tests.runtimes.llama.engines import Outcome, Outcomes, generate, make_engine

TOKENS = 96
WAYS = (
    ("questions, reproducible, temperature 0.8", True, True, 0.8, 1.0),
    ("questions, default, greedy", True, False, 0.0, 0.99),
    ("questions, default, temperature 0.8", True, False, 0.8, 0.0),
    ("words, reproducible, temperature 0.8", False, True, 0.8, 1.0),
    ("words, default, greedy", False, False, 0.0, 0.0),
    ("words, default, temperature 0.8", False, False, 0.8, 0.0),
)
"""What is asked for, and the least share of cuts that must be seamless."""


def beside(engine: Engine, request: Generate, dice: random.Random) -> Outcome:
    """The outcome of a request while three others come and go."""
    outcomes = Outcomes(engine)
    others = iter(range(1_000_000, 2_000_000))
    outcomes.open(request)
    while request.request in outcomes.running:
        if len(outcomes.running) < engine.slots and dice.random() < 0.3:
            prompt = " ".join(dice.choices(questions(), k=dice.choice([1, 3, 10])))
            length = dice.randint(5, 60)
            outcomes.open(generate(next(others), prompt=prompt, max_tokens=length))
        outcomes.step()
    for number in outcomes.running:
        engine.close(number)
    return outcomes.of[request.request]


@functools.cache
def questions() -> list[str]:
    """What the demo model is asked to see how good it is."""
    asked = json.loads(DEMO_FILE.with_name("heldout.json").read_text())["questions"]
    return [one["question"] for one in asked]


def agreement(whole: list[int], cut: int, rest: list[int]) -> int | None:
    """After how many tokens the continued answer differs; None: nowhere."""
    expected = whole[cut:]
    if rest == expected:
        return None
    pairs = zip(expected, rest, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), len(rest))


def measure(
    model: pathlib.Path,
    *,
    on_subject: bool,
    reproducible: bool,
    temperature: float,
    prompts: int,
    cuts: int,
) -> tuple[int, int, list[int]]:
    """Seamless cuts, all cuts, and for the others after how many tokens they differ."""
    first = make_engine(model, reproducible=reproducible)
    second = make_engine(model, reproducible=reproducible)
    dice = random.Random(1)
    seamless, differ = 0, []
    words = " ".join(questions()).split()
    for number, question in enumerate(dice.choices(questions(), k=prompts)):
        heap = " ".join(dice.choices(words, k=dice.choice([5, 30, 150])))
        asked: dict[str, object] = {
            "prompt": None if on_subject else heap,
            "messages": (("user", question),) if on_subject else None,
            "temperature": temperature,
            "seed": number,
            "ignore_eos": False,
        }
        whole = beside(first, generate(1, max_tokens=TOKENS, **asked), dice)
        for cut in sorted(dice.sample(range(1, len(whole.ids)), min(cuts, len(whole.ids) - 1))):
            asked["continued_ids"] = tuple(whole.ids[:cut])
            rest = beside(second, generate(1, max_tokens=TOKENS - cut, **asked), dice)
            after = agreement(whole.ids, cut, rest.ids)
            if after is None:
                seamless += 1
            else:
                differ.append(after)
    return seamless, seamless + len(differ), differ


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--cuts", type=int, default=8, help="of each answer")
    parser.add_argument("--model", type=pathlib.Path, default=DEMO_FILE)
    options = parser.parse_args()
    is_good = True
    for name, on_subject, reproducible, temperature, least in WAYS:
        seamless, cuts, differ = measure(
            options.model,
            on_subject=on_subject,
            reproducible=reproducible,
            temperature=temperature,
            prompts=options.prompts,
            cuts=options.cuts,
        )
        share = seamless / max(1, cuts)
        is_good &= share >= least
        after = f"; the others differ after {statistics.median(differ):g} tokens" if differ else ""
        verdict = "    " if not least else "pass" if share >= least else "MISS"
        print(f"{verdict} {name}: {seamless} of {cuts} cuts are seamless ({share:.1%}){after}")
    if not is_good:
        sys.exit(1)


if __name__ == "__main__":
    main()
