"""The one place where the entry point `llama` is made; everything else is imported when asked."""

from collections.abc import Mapping

from runtimes.base import Runtime


def create(source: str, *, options: Mapping[str, str]) -> Runtime:
    """Make the llama.cpp runtime for a GGUF file, or for the model in the package (`demo`).

    Its options are listed in `README.md` here. Raises RuntimeFailure `invalid_model`,
    `missing_dependency` or, for an option that makes no sense, `bad_request`; the message is one
    line that says the mend.
    """
    from runtimes.llama.files.hash_cache import HashCache
    from runtimes.llama.files.speed_cache import SpeedCache
    from runtimes.llama.runtime import LlamaRuntime
    from runtimes.llama.settings import read_settings

    return LlamaRuntime(read_settings(source, options), hashes=HashCache(), speeds=SpeedCache())
