"""The one place for reading the options of a source: text in, checked values out."""

import difflib
import re
from collections.abc import Collection, Mapping

from runtimes.base import RuntimeFailure

_OPTIONS = re.compile(r"(?:,[A-Za-z_][A-Za-z0-9_-]*=[^,]*)+\Z")


def split_options(spec: str) -> tuple[str, dict[str, str]]:
    """`demo,slots=4,threads=2` as `demo` and its options.

    What does not end in NAME=VALUE pairs is all source. Raises RuntimeFailure `bad_request` for
    an option that is given twice.
    """
    found = _OPTIONS.search(spec)
    if found is None:
        return spec, {}
    options: dict[str, str] = {}
    for pair in found[0].split(",")[1:]:
        option, _, value = pair.partition("=")
        if option in options:
            raise RuntimeFailure("bad_request", f"the option {option} is given twice")
        options[option] = value
    return spec[: found.start()], options


def check_names(options: Mapping[str, str], known: Collection[str]) -> None:
    """Raise RuntimeFailure `bad_request` for an option that is not `known`, with the nearest."""
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option.replace("-", "_").lower(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise RuntimeFailure("bad_request", f"unknown option {option[:64]!r}; {hint}")


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
