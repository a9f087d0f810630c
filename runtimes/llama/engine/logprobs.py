"""The one place that says how likely tokens were: the logits of one row as logarithms of shares."""

from runtimes.base import Logprob
from runtimes.llama.engine.bindings import Bindings, Handle
from runtimes.llama.engine.model import LoadedModel

LEAST = -9999.0
"""JSON has no infinity; OpenAI's word for what is as good as impossible."""


def logprobs(
    bindings: Bindings,
    model: LoadedModel,
    context: Handle,
    row: int,
    token: int,
    count: int,
    *,
    visible: frozenset[int],
) -> tuple[Logprob, ...]:
    """`token` itself, then the `count` likeliest tokens, by the logits in `row` of the last batch.

    They are the model's own, before penalties, biases, grammar, filters and temperature.
    `visible`: special tokens that are text all the same.
    """
    import numpy  # comes with llama-cpp-python; most workers are never asked for this

    pointer = bindings.llama_get_logits_ith(context, row)
    logits = numpy.ctypeslib.as_array(pointer, (model.tokens_known,)).astype(numpy.float64)
    logits -= logits.max()
    values = logits - numpy.log(numpy.exp(logits).sum())
    count = min(count, model.tokens_known)
    best = numpy.argpartition(-values, count - 1)[:count] if count else ()
    likeliest = sorted((int(each) for each in best), key=lambda each: (-values[each], each))
    return tuple(
        Logprob(each, model.piece(each, special=each in visible), max(LEAST, float(values[each])))
        for each in (token, *likeliest)
    )
