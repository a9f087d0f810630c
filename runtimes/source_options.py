"""The one place for reading the options of a source: text in, checked values out."""

from collections.abc import Mapping

from runtimes.base import RuntimeFailure


def integer_option(options: Mapping[str, str], option: str, least: int, most: int) -> int | None:
    """The number under `option`; None without it. Raises RuntimeFailure `bad_request`."""
    if option not in options:
        return None
    try:
        value = int(options[option])
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise RuntimeFailure("bad_request", f"{option} must be a number from {least} to {most}")
    return value
