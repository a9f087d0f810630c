"""What leaves the daemon as a failure."""

from meshd.failures import ExitCode, RequestFailed, UserError


def test_codes_are_the_interface() -> None:
    """0 done, 1 failed, 2 wrong usage, 3 no daemon: programs rely on the numbers."""
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3]
    assert [code.name for code in ExitCode] == ["DONE", "FAILED", "WRONG_USAGE", "NO_DAEMON"]


def test_a_user_error_is_one_line_and_a_code() -> None:
    """Its text is its message; unless said otherwise the command failed."""
    error = UserError("mend this")
    assert (str(error), error.message, error.exit_code) == ("mend this", "mend this", 1)
    assert UserError("typed wrongly", ExitCode.WRONG_USAGE).exit_code == 2


def test_a_failed_request_says_code_message_and_when_to_try_again() -> None:
    """All three reach the gateway."""
    failure = RequestFailed("queue_full", "all busy", retry_after_s=2.5)
    assert (failure.code, str(failure), failure.retry_after_s) == ("queue_full", "all busy", 2.5)
    assert RequestFailed("timeout", "over").retry_after_s is None
