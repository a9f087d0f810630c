"""The one place that turns a completion's bytes into text, piece by piece.

Tokens are pieces of bytes, not of characters, and a stop string may begin in one token and end
three later. So some bytes wait here for their character, and some characters wait until it is
decided whether they begin a stop string. What comes out does not depend on where tokens ended.
"""

import codecs

from runtimes.text_match import TextMatch


class CompletionText:
    """The text of one completion, up to the first of its stop strings."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = [TextMatch(text) for text in stop]
        self._matched = [0] * len(stop)
        """How much of each the text ends with."""
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
            pairs = zip(self._stops, self._matched, strict=True)
            self._matched = [stop.after(matched, character) for stop, matched in pairs]
            pairs = zip(self._stops, self._matched, strict=True)
            complete = [matched for stop, matched in pairs if matched == len(stop.text)]
            if complete:
                self._stopped = True
                whole = self._held + text[: position + 1]
                self._held = ""
                return whole[: len(whole) - max(complete)]
        whole = self._held + text
        held = max(self._matched, default=0)
        self._held = whole[len(whole) - held :]
        return whole[: len(whole) - held]

    def finish(self) -> str:
        """The completion is over: return what was held back as a possible stop string.

        Bytes of a character that never became whole are dropped.
        """
        rest, self._held = self._held, ""
        return rest
