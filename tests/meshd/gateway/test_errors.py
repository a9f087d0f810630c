"""The table of failures."""

import re

import pytest

from meshd.failures import RequestFailed
from meshd.gateway.errors import (
    FAILURES,
    Failure,
    Refusal,
    error_body,
    error_headers,
    known_failure,
    meaning,
)

MESH_CODES = {
    "bad_request": 400,
    "context_too_long": 400,
    "model_forbidden": 403,
    "model_not_found": 404,
    "no_trusted_node": 404,
    "queue_full": 503,
    "loading": 503,
    "unavailable": 503,
    "interrupted": 502,
    "timeout": 504,
    "internal": 500,
}


@pytest.mark.parametrize(("code", "status"), MESH_CODES.items())
def test_each_code_of_the_mesh_has_its_status(code: str, status: int) -> None:
    """The statuses that clients rely on."""
    assert meaning(RequestFailed(code, "m")).status == status


def test_every_code_that_request_failed_documents_is_in_the_table() -> None:
    """The list in RequestFailed's docstring and the table do not drift apart."""
    documented = re.findall(r"`([a-z_]+)`", (RequestFailed.__doc__ or "").split("gateway")[0])
    assert set(documented) - {"code"} == set(MESH_CODES)
    assert set(MESH_CODES) <= set(FAILURES)


def test_unknown_codes_are_internal() -> None:
    """A newer node's code does not break the gateway."""
    assert meaning(RequestFailed("from_the_future", "m")).status == 500


def test_error_body_has_the_dialects_own_codes() -> None:
    """Clients look for OpenAI's code of a prompt that is too long."""
    assert error_body(RequestFailed("context_too_long", "too long")) == {
        "error": {
            "message": "too long",
            "type": "invalid_request_error",
            "param": None,
            "code": "context_length_exceeded",
        }
    }
    assert error_body(Refusal("bad_request", "m", param="p"))["error"] == {
        "message": "m",
        "type": "invalid_request_error",
        "param": "p",
        "code": "bad_request",
    }


@pytest.mark.parametrize(
    ("failure", "retry_after"),
    [
        (RequestFailed("queue_full", "m"), "1"),
        (RequestFailed("queue_full", "m", retry_after_s=2.1), "3"),
        (RequestFailed("unavailable", "m", retry_after_s=0), "1"),
        (RequestFailed("unavailable", "m", retry_after_s=-5), "1"),
        (RequestFailed("timeout", "m"), None),
        (Refusal("rate_limited", "m", retry_after_s=0.01), "1"),
        (Refusal("rate_limited", "m", retry_after_s=61.5), "62"),
        (RequestFailed("queue_full", "m", retry_after_s=float("inf")), None),
        (RequestFailed("queue_full", "m", retry_after_s=float("nan")), None),
    ],
)
def test_retry_after(failure: Failure, retry_after: str | None) -> None:
    """Whole seconds, at least one; the failure's own advice goes first."""
    assert dict(error_headers(failure)).get("retry-after") == retry_after


def test_failures_are_found_inside_groups() -> None:
    """A nursery in between hides no failure, and a group with a surprise is a surprise."""
    failure = RequestFailed("timeout", "m")
    assert known_failure(ExceptionGroup("", [ExceptionGroup("", [failure])])) is failure
    assert known_failure(ExceptionGroup("", [failure, KeyError()])) is None
    assert known_failure(KeyError()) is None
