"""The one place that tells browsers which other sites' pages may use the gateway (CORS).

None by default. A browser asks first (a preflight, `OPTIONS`, which carries no key), and shows an
answer to a page only when its headers allow the page's origin.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final

from starlette.datastructures import Headers

ANY: Final = "*"
_EXPOSED: Final = (
    "x-meshd-node, x-meshd-node-id, x-meshd-request, x-meshd-resumed, retry-after, www-authenticate"
)
_METHODS: Final = "GET, HEAD, POST"
_MAX_AGE_S: Final = 600
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}", re.ASCII)

HeaderList = Sequence[tuple[str, str]]


class Cors:
    """The origins that are allowed."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        """Origins as browsers write them (`https://example.org`), or `*` for all."""
        self._origins = frozenset(origin.lower() for origin in origins)

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may use the gateway."""
        return ANY in self._origins or origin.lower() in self._origins

    def headers(self, origin: str | None) -> HeaderList:
        """What every answer to a request with this `Origin` carries, errors too."""
        if not self._origins:
            return ()
        if ANY in self._origins:
            allowed: HeaderList = [("access-control-allow-origin", ANY)]
        elif origin is not None and self.allows(origin):
            allowed = [("access-control-allow-origin", origin), ("vary", "origin")]
        else:
            return [("vary", "origin")]
        return [*allowed, ("access-control-expose-headers", _EXPOSED)]

    def preflight(self, method: str, headers: Headers) -> HeaderList | None:
        """The answer's further headers when this request is a preflight; None when it is not."""
        origin = headers.get("origin")
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if not is_preflight or origin is None or not self.allows(origin):
            return None
        answer = [
            ("access-control-allow-methods", _METHODS),
            ("access-control-max-age", str(_MAX_AGE_S)),
        ]
        asked = headers.get("access-control-request-headers", "")
        if _HEADER_NAMES.fullmatch(asked):
            # Whatever clients add (and they add much): who may ask at all, the key decides.
            answer.append(("access-control-allow-headers", asked))
        if headers.get("access-control-request-private-network") == "true":
            answer.append(("access-control-allow-private-network", "true"))
        return answer
