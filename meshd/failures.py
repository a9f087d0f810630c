"""The one place for failures that leave the daemon: a line for people, a code for programs."""

import enum


class ExitCode(enum.IntEnum):
    """What every command ends with."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    NO_DAEMON = 3


class UserError(Exception):
    """Something the person at the terminal can mend; printed as one line, never a traceback."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class RequestFailed(Exception):
    """An inference request ended without (all of) its answer.

    `code` is one of: `bad_request`, `context_too_long`, `model_forbidden` (the key is not for it),
    `model_not_found`, `no_trusted_node`, `queue_full`, `loading` (the model has to be loaded, and
    the request does not wait), `unavailable`, `interrupted` (the stream broke after its first
    token), `timeout`, `internal`.
    `gateway/errors.py` maps codes to HTTP, and is the only place that does.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
