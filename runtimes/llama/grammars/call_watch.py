"""The one place that sees, token by token, whether a model begins a call. Pure.

What has come is followed like `ReplyParser` reads it: a marker in thoughts begins no call.
"""

import codecs
import dataclasses
from typing import Final

from runtimes.harmony import ENDS, START, may_be_head
from runtimes.reply_form import CALL_MARKERS, HARMONY, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm
from runtimes.reply_reader import HEAD_MAX, SPACE_MAX
from runtimes.text_match import TextMatch

HARMONY_CALL: Final = "<|channel|>commentary to=functions."
"""What its calls begin with, mostly."""
_CALL: Final = "call"
_LEAD: Final = "lead"
"""It is not decided whether thoughts come first."""
_HEAD: Final = "head"
"""Of a message of Harmony's, or before one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Watched:
    """What is known of a text so far; a function of the text alone."""

    phase: str
    matched: tuple[int, ...]
    """How much has come of each text that ends the phase."""
    lead: str = ""
    """In that phase, all of the text; in a head, all of it so far."""
    pending: bytes = b""
    """Of an unfinished character."""


class CallWatch:
    """Knows the texts of one form."""

    def __init__(self, form: ReplyForm) -> None:
        """`form`: of calls that a marker begins."""
        self.marker = call_marker(form.calls)
        texts: dict[str, tuple[tuple[str, str], ...]] = {
            "thoughts": ((THOUGHTS_END, "content"),),
            "content": ((self.marker, _CALL),),
        }
        first = {"may": _LEAD, "open": "thoughts"}.get(form.thoughts, "content")
        if form.calls == HARMONY:
            texts = {
                _HEAD: ((self.marker, _CALL), ("<|message|>", "body")),
                "body": tuple((end, _HEAD) for end in (*ENDS, START)),
            }
            first = _HEAD if form.thoughts == "may" else "body"
        self._texts = {
            phase: tuple((TextMatch(text), then) for text, then in each)
            for phase, each in texts.items()
        }
        self.begin = Watched(first, self._none_of(first))
        """Before any text."""

    def marker_part(self, watched: Watched) -> int:
        """With how many letters of the marker the text ends."""
        if watched.phase == _LEAD:
            watched, _ = self._without_thoughts(watched.lead)
        return watched.matched[0] if self._texts[watched.phase][0][1] == _CALL else 0

    def after(self, watched: Watched, data: bytes) -> tuple[Watched, bool]:
        """What is known behind a token's bytes, and whether a call has begun in them. What comes
        behind its marker is left to others.
        """
        whole = watched.pending + data
        text, used = codecs.utf_8_decode(whole, "replace", False)
        watched, begun = self._through(dataclasses.replace(watched, pending=b""), text)
        return dataclasses.replace(watched, pending=whole[used:]), begun

    def _through(self, watched: Watched, text: str) -> tuple[Watched, bool]:
        for letter in text:
            if watched.phase == _LEAD:
                watched, begun = self._after_lead(watched.lead + letter)
            elif watched.phase == _HEAD:
                watched, begun = self._after_head(watched, letter)
            else:
                watched, begun = self._after_letter(watched, letter)
            if begun:
                return watched, True
        return watched, False

    def _after_lead(self, lead: str) -> tuple[Watched, bool]:
        text = lead.lstrip()
        if len(lead) - len(text) <= SPACE_MAX and THOUGHTS_BEGIN.startswith(text):
            if text == THOUGHTS_BEGIN:
                return Watched("thoughts", self._none_of("thoughts")), False
            return Watched(_LEAD, (), lead), False
        return self._without_thoughts(lead)

    def _without_thoughts(self, text: str) -> tuple[Watched, bool]:
        return self._through(Watched("content", self._none_of("content")), text)

    def _after_head(self, watched: Watched, letter: str) -> tuple[Watched, bool]:
        """Text that begins no head is one more body, as `HarmonyReader` has it."""
        lead = watched.lead + letter
        text = lead.lstrip()
        if text in ENDS:
            return Watched(_HEAD, self._none_of(_HEAD)), False
        if not may_be_head(text):
            return self._through(Watched("body", self._none_of("body")), text)
        after, begun = self._after_letter(watched, letter)
        if begun or after.phase != _HEAD:
            return after, begun
        if len(lead) >= HEAD_MAX:
            return Watched("body", self._none_of("body")), False
        return dataclasses.replace(after, lead=lead), False

    def _after_letter(self, watched: Watched, letter: str) -> tuple[Watched, bool]:
        texts = self._texts[watched.phase]
        pairs = zip(texts, watched.matched, strict=True)
        matched = tuple(match.after(length, letter) for (match, _), length in pairs)
        for (match, then), length in zip(texts, matched, strict=True):
            if length == len(match.text):
                if then == _CALL:
                    return Watched(watched.phase, matched), True
                # Which begins the next head.
                return Watched(then, self._none_of(then), START * (match.text == START)), False
        return Watched(watched.phase, matched), False

    def _none_of(self, phase: str) -> tuple[int, ...]:
        return (0,) * len(self._texts.get(phase, ()))


def call_marker(family: str) -> str:
    """What a call begins with, where grammars have to do with it."""
    return HARMONY_CALL if family == HARMONY else CALL_MARKERS[family][0]
