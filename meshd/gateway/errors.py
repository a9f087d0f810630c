"""The one place that turns failures into HTTP: a code into a status and an OpenAI error body."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from meshd.failures import RequestFailed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a failure code is in HTTP and in the OpenAI dialect."""

    status: int
    type: str
    """The `type` of the error body."""
    code: str | None = None
    """The `code` of the error body, where the dialect has another name; None: the failure code."""
    retry_after_s: float | None = None
    """Advice to the client when the failure itself has none."""


_INVALID = "invalid_request_error"
_SERVER = "server_error"
_LIMIT = "rate_limit_error"

FAILURES: Mapping[str, Meaning] = {
    # Codes of RequestFailed: what the mesh says.
    "bad_request": Meaning(status=400, type=_INVALID),
    "context_too_long": Meaning(status=400, type=_INVALID, code="context_length_exceeded"),
    "model_forbidden": Meaning(status=403, type=_INVALID, code="model_not_found"),
    "model_not_found": Meaning(status=404, type=_INVALID),
    "no_trusted_node": Meaning(status=404, type=_INVALID),
    "queue_full": Meaning(status=503, type=_SERVER, retry_after_s=1),
    "unavailable": Meaning(status=503, type=_SERVER, retry_after_s=2),
    "loading": Meaning(status=503, type=_SERVER, code="model_loading", retry_after_s=5),
    "interrupted": Meaning(status=502, type=_SERVER),
    "timeout": Meaning(status=504, type=_SERVER),
    "internal": Meaning(status=500, type=_SERVER, code="internal_error"),
    # Codes of Refusal: what the gateway says by itself.
    "invalid_json": Meaning(status=400, type=_INVALID),
    "unsupported": Meaning(status=400, type=_INVALID, code="unsupported_parameter"),
    "unauthorized": Meaning(status=401, type=_INVALID, code="invalid_api_key"),
    "forbidden_host": Meaning(status=403, type="permission_error"),
    "forbidden_origin": Meaning(status=403, type="permission_error"),
    "not_found": Meaning(status=404, type=_INVALID, code="unknown_url"),
    "method_not_allowed": Meaning(status=405, type=_INVALID),
    "headers_too_slow": Meaning(status=408, type=_INVALID),
    "body_too_slow": Meaning(status=408, type=_INVALID),
    "body_too_large": Meaning(status=413, type=_INVALID),
    "headers_too_large": Meaning(status=431, type=_INVALID),
    "rate_limited": Meaning(status=429, type=_LIMIT, code="rate_limit_exceeded", retry_after_s=1),
    "too_many_failures": Meaning(status=429, type=_LIMIT, code="rate_limit_exceeded"),
    "overloaded": Meaning(status=503, type=_SERVER, retry_after_s=1),
}


class Refusal(Exception):
    """The gateway refuses a request by itself. `code` is a key of FAILURES."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        assert code in FAILURES
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        """The field of the body (or the header) that is wrong."""
        self.headers = headers
        self.retry_after_s = retry_after_s


Failure = Refusal | RequestFailed


def known_failure(error: Exception) -> Failure | None:
    """The failure that `error` is, or that a group of exceptions is made of; None: unexpected."""
    if isinstance(error, Failure):
        return error
    # A nursery between the failure and us wraps it into a group.
    if isinstance(error, ExceptionGroup):
        expected, unexpected = error.split((Refusal, RequestFailed))
        if expected is not None and unexpected is None:
            return known_failure(expected.exceptions[0])
    return None


def meaning(failure: Failure) -> Meaning:
    """The table's row; codes that a newer node may invent count as internal."""
    return FAILURES.get(failure.code, FAILURES["internal"])


def error_body(failure: Failure) -> dict[str, object]:
    """The OpenAI error object."""
    row = meaning(failure)
    param = failure.param if isinstance(failure, Refusal) else None
    code = row.code or failure.code
    return {
        "error": {"message": failure.message, "type": row.type, "param": param, "code": code},
    }


def error_headers(failure: Failure) -> list[tuple[str, str]]:
    """Headers that the failure brings; Retry-After is in whole seconds, at least one."""
    headers = list(failure.headers) if isinstance(failure, Refusal) else []
    retry_after_s = meaning(failure).retry_after_s
    if failure.retry_after_s is not None:
        retry_after_s = failure.retry_after_s
    if retry_after_s is not None and math.isfinite(retry_after_s):
        headers.append(("retry-after", str(max(1, math.ceil(retry_after_s)))))
    return headers
