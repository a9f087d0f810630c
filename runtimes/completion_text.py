"""The one place that turns a completion's bytes into text, piece by piece.

Tokens are pieces of bytes, not of characters, and a stop string may begin in one token and end
three later. So some bytes wait here for their character, and some characters wait until it is
decided whether they begin a stop string. What comes out does not depend on where tokens ended.
"""

import codecs


class CompletionText:
    """The text of one completion, up to the first of its stop strings."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = [_StopString(text) for text in stop]
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; nothing comes after it."""
        return self._stopped

    def push(self, data: bytes) -> str:
        """Take the next token's bytes; return the text that is decided by now.

        Bytes that are no UTF-8 become U+FFFD.
        """
        if self._stopped:
            return ""
        text = self._decode(data)
        for position, character in enumerate(text):
            complete = [len(stop.text) for stop in self._stops if stop.advance(character)]
            if complete:
                self._stopped = True
                whole = self._held + text[: position + 1]
                self._held = ""
                return whole[: len(whole) - max(complete)]
        whole = self._held + text
        held = max((stop.matched for stop in self._stops), default=0)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]

    def finish(self) -> str:
        """The completion is over: return what was held back as a possible stop string.

        Bytes of a character that never became whole are dropped.
        """
        rest, self._held = self._held, ""
        return rest


class _StopString:
    """How much of one stop string the text ends with (Knuth, Morris and Pratt's automaton)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._shorter = [0] * len(text)
        """For each prefix, by its last index: its longest proper prefix that also ends it."""
        length = 0
        for index in range(1, len(text)):
            length = self._extend(length, text[index])
            self._shorter[index] = length

    def advance(self, character: str) -> bool:
        """Take one character; True when the whole stop string has been seen."""
        if self.matched == len(self.text):
            self.matched = self._shorter[-1]
        self.matched = self._extend(self.matched, character)
        return self.matched == len(self.text)

    def _extend(self, length: int, character: str) -> int:
        while length and self.text[length] != character:
            length = self._shorter[length - 1]
        return length + 1 if self.text[length] == character else 0
