"""The one place for the demo model's tokens: a byte-level BPE, trained here, written as GGUF wants.

Text is cut into words as GPT-2 does it, a word into bytes, and the pairs that occurred most often
in training are joined in the order in which they were learned. Any text can be written, because
every byte is a token. Bytes are shown as printable letters (`byte_letters`), a blank as `Ġ`.
"""

import collections
import functools
import itertools
import json
import re
from collections.abc import Iterable, Sequence

from runtimes.llama.demo.build import byte_letters

BEGIN, END, SYSTEM, USER, ASSISTANT = SPECIALS = (
    "<|begin|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
PRE_TOKENIZER = "gpt-2"
"""llama.cpp's name for the way `_WORDS` cuts."""
TOKENS = 1024
SYSTEM_PROMPT = "You answer questions about meshd."

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self.merges = tuple(merges)
        self.tokens = [*byte_letters(), *(left + right for left, right in merges), *SPECIALS]
        """By id: bytes, then what they were joined to, then the control tokens."""
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._word = functools.lru_cache(maxsize=65_536)(self._word_ids)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; control tokens are not looked for."""
        return [index for word in _WORDS.findall(text) for index in self._word(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, control tokens left out, bytes that are no UTF-8 replaced."""
        values = {letter: byte for byte, letter in enumerate(byte_letters())}
        shown = "".join(self.tokens[index] for index in ids if self.tokens[index] not in SPECIALS)
        return bytes(values[letter] for letter in shown).decode("utf-8", "replace")

    def prompt(self, question: str) -> list[int]:
        """The ids that the chat template makes of one question."""
        return [
            self.ids[BEGIN],
            self.ids[SYSTEM],
            *self.encode(SYSTEM_PROMPT),
            self.ids[END],
            self.ids[USER],
            *self.encode(question),
            self.ids[END],
            self.ids[ASSISTANT],
        ]

    def reply(self, answer: str) -> list[int]:
        """The ids of an answer and of the end of the turn."""
        return [*self.encode(answer), self.ids[END]]

    def to_json(self) -> str:
        """For a checkpoint; `from_json` reads it."""
        return json.dumps([" ".join(pair) for pair in self.merges])

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that wrote `text`."""
        pairs = [merge.split(" ") for merge in json.loads(text)]
        return cls([(left, right) for left, right in pairs])

    def _word_ids(self, word: str) -> tuple[int, ...]:
        letters = byte_letters()
        pieces = [letters[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            pieces = _joined(pieces, best)
        return tuple(self.ids[piece] for piece in pieces)


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn merges for at most `TOKENS` tokens; the same texts give the same merges."""
    counts = collections.Counter(word for text in texts for word in _WORDS.findall(text))
    letters = byte_letters()
    words = [([letters[byte] for byte in word.encode()], n) for word, n in sorted(counts.items())]
    merges: list[tuple[str, str]] = []
    while len(merges) < TOKENS - len(letters) - len(SPECIALS):
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for pieces, count in words:
            for pair in itertools.pairwise(pieces):
                pairs[pair] += count
        if not pairs:
            break  # every word is one token
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [
            (_joined(pieces, best) if best[0] in pieces else pieces, count)
            for pieces, count in words
        ]
    return Tokenizer(merges)


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """`pieces` with every occurrence of `pair` made one, from the left."""
    joined: list[str] = []
    at = 0
    while at < len(pieces):
        if at + 1 < len(pieces) and (pieces[at], pieces[at + 1]) == pair:
            joined.append(pair[0] + pair[1])
            at += 2
        else:
            joined.append(pieces[at])
            at += 1
    return joined
