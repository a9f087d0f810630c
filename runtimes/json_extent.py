"""The one place that finds where a JSON value ends in a text that comes in pieces. Pure."""

import re
from typing import Final

DEPTH_MAX: Final = 64
"""Brackets in one another; more is nonsense."""
MORE: Final = ""
NONSENSE: Final = "!"

_BETWEEN = re.compile(r"[\s,:0-9A-Za-z.+-]*")
_IN_STRING = re.compile(r'[^"\\]*')
_CLOSERS: Final = {"{": "}", "[": "]"}


class JsonExtent:
    """Goes through one object or array, from bracket to bracket.

    Brackets and strings must be well formed. Of what stands between them only the characters are
    looked at: a reader of the whole will find out.
    """

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._is_in_string = False

    @property
    def depth(self) -> int:
        """Brackets that are open."""
        return len(self._closers)

    def advance(self, text: str, position: int) -> tuple[int, str]:
        """Go on from `position`; return where it stopped and why.

        A bracket: behind it. MORE: all is read but for a backslash whose letter is to come.
        NONSENSE: before what JSON does not have there.
        """
        while position < len(text):
            if self._is_in_string:
                position = _end(_IN_STRING, text, position)
                if position + 1 < len(text) and text[position] == "\\":
                    position += 2
                elif position < len(text) and text[position] == '"':
                    self._is_in_string = False
                    position += 1
                else:
                    break
                continue
            position = _end(_BETWEEN, text, position)
            if position == len(text):
                break
            letter = text[position]
            if letter == '"':
                self._is_in_string = True
            elif letter in _CLOSERS and self.depth < DEPTH_MAX:
                self._closers.append(_CLOSERS[letter])
                return position + 1, letter
            elif self._closers and letter == self._closers[-1]:
                self._closers.pop()
                return position + 1, letter
            else:
                return position, NONSENSE
            position += 1
        return position, MORE


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    assert match is not None  # it matches nothing, too
    return match.end()
