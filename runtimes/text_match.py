"""The one place that finds a text in another one that comes letter by letter.

Knuth, Morris and Pratt's automaton: its state is how many letters of the text have come.
"""


class TextMatch:
    """Looks for one text, which is not empty."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._shorter = [0] * len(text)
        """For each prefix, by its last index: its longest proper prefix that also ends it."""
        length = 0
        for index in range(1, len(text)):
            length = self._extend(length, text[index])
            self._shorter[index] = length

    def after(self, matched: int, letter: str) -> int:
        """How many letters have come behind one more, where there were `matched`; when they are
        all, the text has been found.
        """
        if matched == len(self.text):
            matched = self._shorter[-1]
        return self._extend(matched, letter)

    def _extend(self, length: int, letter: str) -> int:
        while length and self.text[length] != letter:
            length = self._shorter[length - 1]
        return length + 1 if self.text[length] == letter else 0
