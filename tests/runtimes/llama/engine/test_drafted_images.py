"""A model that sees, with a draft: texts are speculated on, and what is said of images is not."""

import os
import pathlib

import pytest

from tests.runtimes.llama.engine.test_speculation import drafted, hold_against
from tests.runtimes.llama.engines import Outcomes, generate, run
from tests.runtimes.serving import needs_llama

pytest.importorskip("gguf", reason="the [dev] extra is not installed")

from tests.helpers.projectors import png
from tests.runtimes.llama.images.test_vision import KINDS, look, models, seeing

__all__ = ["models"]  # a fixture

pytestmark = [pytest.mark.llama, needs_llama]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_speculated_on_beside_an_image(models: pathlib.Path, kind: str) -> None:
    """Both answers are as without a draft, and alone the image gets no proposals."""
    model, projector = models / f"{kind}.gguf", models / f"mmproj-{kind}.gguf"
    engine = drafted(model, model, projector=os.fsencode(projector))
    text = generate(1, max_tokens=150, temperature=0.0)
    shown = look(2, png(), png(300, 300, seed=1), max_tokens=60)
    outcomes = Outcomes(engine)
    outcomes.open(text)
    while not outcomes.of[1].ids:
        outcomes.step()
    outcomes.open(shown)
    outcomes.finish()
    plain = seeing(models, kind)
    for request in (text, shown):
        hold_against(plain, request, outcomes.of[request.request])
    proposed = engine.speculation.proposed
    assert engine.speculation.accepted > 75
    [again] = run(engine, look(3, png(), png(300, 300, seed=1), max_tokens=60))
    assert engine.speculation.proposed == proposed
    assert len(again.ids) == 60


@pytest.mark.parametrize("cells", range(258, 266))
def test_who_generates_has_room_beside_an_image(models: pathlib.Path, cells: int) -> None:
    """With what is accepted of its proposals it outgrows the cache, in whatever is read then."""
    model, projector = models / "plain.gguf", models / "mmproj-plain.gguf"
    engine = drafted(
        model, model, projector=os.fsencode(projector), context_tokens=240, kv_tokens=cells,
        draft_tokens=16,
    )  # fmt: skip
    outcomes = Outcomes(engine)
    outcomes.open(generate(1, prompt="x" * 20, max_tokens=218, temperature=0.0))
    while len(outcomes.of[1].ids) < 10:
        outcomes.step()
    outcomes.open(look(2, *(png(seed=seed) for seed in range(6)), max_tokens=5))
    outcomes.finish()
    assert [len(outcomes.of[number].ids) for number in (1, 2)] == [218, 5]
