"""The one place for what a body that asks for generated text comes to, whatever the dialect."""

import dataclasses

from runtimes.base import GenerateRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """What is to be generated, and how the answer is wanted."""

    requests: tuple[GenerateRequest, ...]
    """One for each choice: alike but for the seed, if there is one."""
    stream: bool
    with_usage: bool
    """Streamed: end with the token counts. (An answer in one piece always has them.)"""
    user: str | None
    """Whom the app asks for, in its own words."""
