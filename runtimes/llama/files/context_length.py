"""The one place for how long a context is where nobody says."""

from typing import Final

DEFAULT_CONTEXT_TOKENS_MAX: Final = 4096
CONTEXT_TOKENS_MIN: Final = 16


def default_context_tokens(trained: int) -> int:
    """The context of a model that was trained for `trained` tokens, where nobody says."""
    # What is no sane number counts as none; llama.cpp gives 2**32 - 1 as -1.
    known = trained if trained >= CONTEXT_TOKENS_MIN else DEFAULT_CONTEXT_TOKENS_MAX
    return min(known, DEFAULT_CONTEXT_TOKENS_MAX)
