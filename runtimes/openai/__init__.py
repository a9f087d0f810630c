"""The one place where the entry point `openai` is made; everything else is imported when asked.

`runtimes.openai` is not the package `openai`: imports here are absolute, as everywhere.
"""

from collections.abc import Mapping

from runtimes.base import Source


def create(source: str, *, options: Mapping[str, str]) -> Source:
    """Make the source for an OpenAI-compatible server at a URL, with or without `/v1`.

    Options: `api_key` (else the environment's `MESHD_UPSTREAM_KEY`), `slots`, `queue`, `see`.
    Raises RuntimeFailure `invalid_model` for a URL, `bad_request` for an option that makes no
    sense; the message is one line that says the mend. Whether the server is up is found out by
    `serve`.
    """
    from runtimes.openai.settings import read_settings
    from runtimes.openai.source import UpstreamSource

    return UpstreamSource(read_settings(source, options))
