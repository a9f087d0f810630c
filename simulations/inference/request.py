"""The one place for one request's life, as the books have it."""

import dataclasses


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """From its arrival at a gateway to its end."""

    number: int
    user: int
    gateway: int
    """The host that the app asked."""
    arrived_ns: int
    prompt_tokens: int
    output_tokens: int
    first_ns: int | None = None
    """When the app had its first token."""
    ended_ns: int | None = None
    """None: in flight."""
    outcome: str = ""
    """`completed`, or the code with which it failed; "" while in flight."""
    kept_tokens: int = 0
    """Tokens that the app has from attempts that broke off."""
    refusals: int = 0
    """Candidates that had no room, or no model (yet)."""
    retries: int = 0
    """Candidates that could not be reached, or broke before the first token."""
    continuations: int = 0
    """Times that it went on elsewhere after its first token."""
    server: int | None = None
    """The host that gave the last token."""

    @property
    def served_tokens(self) -> int:
        """Tokens that the app has got, of the answer."""
        return self.output_tokens if self.outcome == "completed" else self.kept_tokens
