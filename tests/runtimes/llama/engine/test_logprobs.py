"""How likely each token was is told exactly, and changes nothing."""

import math
import pathlib

import pytest
import trio

from runtimes.base import Chunk, Logprob
from runtimes.llama.frames import Tokens
from runtimes.llama.link import _chunk
from runtimes.llama.runtime import LlamaRuntime
from runtimes.llama.settings import LlamaSettings
from runtimes.worker.framing import FrameError
from tests.runtimes.llama.engines import generate, make_engine, run
from tests.runtimes.serving import ask, complete, needs_llama, serving

pytestmark = [pytest.mark.llama, needs_llama]


def test_the_likeliest_come_in_order(demo: LlamaSettings) -> None:
    """The 20 likeliest come in order, the greedy token is the first, its bytes are the text's."""

    async def main() -> None:
        runtime = LlamaRuntime(demo)
        async with serving(runtime):
            plain = await complete(runtime, ask(30, temperature=0.0))
            told = await complete(runtime, ask(30, temperature=0.0, logprobs=20))
        assert told.ids == plain.ids
        likely = [each for chunk in told.chunks for each in chunk.logprobs]
        assert [own.token for own, *_ in likely] == told.ids
        assert b"".join(own.data for own, *_ in likely).decode() == told.text
        for own, *top in likely:
            values = [each.logprob for each in top]
            assert len(top) == 20
            assert values == sorted(values, reverse=True)
            assert own == top[0]

    trio.run(main)


def test_they_are_the_models_own(random_model: pathlib.Path) -> None:
    """Temperature, biases and a grammar choose another token; how likely it was stays the same."""
    engine = make_engine(random_model)
    (plain,) = run(engine, generate(1, temperature=0.0, max_tokens=1, logprobs=300))
    shares = dict(zip(plain.likely[0].likely_ids, plain.likely[0].likely_logprobs, strict=True))
    assert sum(map(math.exp, shares.values())) == pytest.approx(1.0)
    for changes in (
        {"temperature": 5.0},
        {"bias_tokens": (120,), "bias_values": (100.0,)},
        {"grammar": 'root ::= "zz"'},
    ):
        (other,) = run(engine, generate(1, max_tokens=1, logprobs=0, **changes))
        (frame,) = other.likely
        assert frame.likely_ids == frame.token_ids
        assert frame.likely_logprobs[0] == pytest.approx(shares[frame.token_ids[0]], abs=1e-3)


def test_none_are_told_unless_asked(random_model: pathlib.Path) -> None:
    """Without the field a token costs nothing more."""
    (outcome,) = run(make_engine(random_model), generate(1))
    assert not any(frame.likely_ids for frame in outcome.likely)


@pytest.mark.parametrize(
    "changes",
    [
        {"likely_data": ()},
        {"likely_logprobs": (0.0, 0.0)},
        {"token_ids": (1, 2)},
    ],
)
def test_a_worker_that_tells_nonsense_is_not_believed(changes: dict[str, object]) -> None:
    """Columns of different lengths, or one list for two tokens."""
    fields: dict[str, object] = {
        "request": 1,
        "token_ids": (1,),
        "text": "x",
        "likely_ids": (1,),
        "likely_data": (b"x",),
        "likely_logprobs": (-0.5,),
    }
    assert _chunk(Tokens(**fields)) == Chunk((1,), "x", ((Logprob(1, b"x", -0.5),),))  # type: ignore[arg-type]
    with pytest.raises(FrameError):
        _chunk(Tokens(**(fields | changes)))  # type: ignore[arg-type]
