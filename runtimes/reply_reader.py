"""The one place for what reading an answer is alike in all forms: text in, deltas out, in steps.

What is not decided yet waits as the rest. A step decides some of it, and which step is next.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Final

from runtimes.json_extent import MORE, NONSENSE, JsonExtent
from runtimes.reply_delta import CallArguments, CallBegin, Content, Delta, Thoughts
from runtimes.reply_form import CALL_MARKERS, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm

HEAD_MAX: Final = 512
"""Characters before a call's arguments, where they are to be followed as they come; and between
a marker and its call."""
SPACE_MAX: Final = 64
"""Of the space before a marker, so much is left out."""
PIECE_MAX: Final = 4 * 1024
"""Characters that are worked on at a time: every step copies what is left of them."""


class ReplyReader:
    """Reads one answer. This one knows thoughts and no calls."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None
    ) -> None:
        """See `ReplyParser`."""
        self._family = form.calls if form.calls in CALL_MARKERS else ""
        self._functions = functions
        self._calls_max = calls_max
        self._calls = 0
        self._rest = ""
        """What is not decided yet."""
        self._deltas: list[Delta] = []
        self._skips_space = form.thoughts == "open"
        self._at = 0
        """In the rest: where the marker ends, the object begins."""
        steps = {"may": self._lead, "open": self._thoughts}
        self._step: Callable[[bool], bool] = steps.get(form.thoughts, self._content)
        """Decides some of the rest; False when it needs more, or no more is left."""

    @property
    def has_calls(self) -> bool:
        """Whether a call has come."""
        return self._calls > 0

    def push(self, text: str) -> list[Delta]:
        """Take more of the answer; return what is decided by now."""
        for start in range(0, len(text), PIECE_MAX):
            self._rest += text[start : start + PIECE_MAX]
            self._work(is_end=False)
        return self._taken()

    def finish(self) -> list[Delta]:
        """The answer is over; return what was not decided."""
        self._work(is_end=True)
        return self._taken()

    def _work(self, *, is_end: bool) -> None:
        while self._step(is_end):
            pass

    def _taken(self) -> list[Delta]:
        deltas: list[Delta] = []
        for _, neighbours in itertools.groupby(self._deltas, type):
            first, *more = neighbours
            if not isinstance(first, CallBegin):
                rest = [delta.text for delta in more if not isinstance(delta, CallBegin)]
                first, more = dataclasses.replace(first, text="".join([first.text, *rest])), []
            deltas += [first, *more]
        self._deltas = []
        return deltas

    # ---- steps ----

    def _lead(self, is_end: bool) -> bool:
        """Thoughts may begin here, and nowhere else."""
        text = self._rest.lstrip()
        if len(self._rest) - len(text) <= SPACE_MAX:
            if text.startswith(THOUGHTS_BEGIN):
                self._rest = text.removeprefix(THOUGHTS_BEGIN)
                self._skips_space = True
                self._step = self._thoughts
                return True
            if THOUGHTS_BEGIN.startswith(text) and not is_end:
                return False
        self._step = self._content
        return True

    def _thoughts(self, is_end: bool) -> bool:
        if not self._say_up_to(THOUGHTS_END, Thoughts, is_end):
            return False
        self._rest = self._rest.lstrip().removeprefix(THOUGHTS_END)
        self._skips_space = True
        self._step = self._content
        return True

    def _content(self, is_end: bool) -> bool:
        if not self._family or self._is_full:
            self._drop_space()
            self._say_content(len(self._rest))
            return False
        marker = CALL_MARKERS[self._family][0]
        if not self._say_up_to(marker, Content, is_end):
            return False
        self._at = self._rest.index(marker) + len(marker)
        self._step = self._head
        return True

    def _head(self, is_end: bool) -> bool:
        """Between a marker and its call."""
        return self._is_no_call(self._at)

    # ---- what steps do ----

    @property
    def _is_full(self) -> bool:
        return self._calls == self._calls_max

    def _begin_call(self, name: str) -> None:
        self._deltas.append(CallBegin(self._calls, name))
        self._calls += 1

    def _is_no_call(self, end: int) -> bool:
        self._say_content(end)
        self._step = self._content
        return True

    def _drop_space(self) -> None:
        if self._skips_space:
            self._rest = self._rest.lstrip()
            self._skips_space = not self._rest

    def _say_up_to(self, marker: str, kind: type[Content | Thoughts], is_end: bool) -> bool:
        """Say what stands before `marker`, the space before it left out, whether or not it has
        come yet. True: it has, and the rest begins with that space.
        """
        self._drop_space()
        at = self._rest.find(marker)
        if at < 0 and is_end:
            end = len(self._rest)
        else:
            end = _without_space(self._rest, at if at >= 0 else before_part(self._rest, marker))
        self._say(kind(self._rest[:end]))
        self._rest = self._rest[end:]
        return at >= 0

    def _say_content(self, end: int) -> None:
        self._say(Content(self._rest[:end]))
        self._rest = self._rest[end:]

    def _say_arguments(self, text: str) -> None:
        self._say(CallArguments(self._calls - 1, text))

    def _say(self, delta: Content | Thoughts | CallArguments) -> None:
        if delta.text:
            self._deltas.append(delta)


class JsonArgumentsReader(ReplyReader, abc.ABC):
    """Passes on a call's arguments that are one JSON object."""

    def __init__(
        self, form: ReplyForm, functions: Mapping[str, str], calls_max: int | None
    ) -> None:
        super().__init__(form, functions, calls_max)
        self._read = 0
        """In the rest: as far as the extent has read."""
        self._extent = JsonExtent()
        self._depth_around = 0
        """Brackets around the arguments."""

    def _begin_arguments(self, name: str, brace: int, *, read: int) -> None:
        self._begin_call(name)
        self._rest = self._rest[brace:]
        self._read = read
        self._step = self._arguments

    def _arguments(self, is_end: bool) -> bool:
        met = self._read_to(self._depth_around)
        if met == MORE and is_end:
            self._read = len(self._rest)
        self._say_arguments(self._rest[: self._read])
        then = self._remainder if self._depth_around else self._behind
        return self._leave(met, then)

    def _remainder(self, is_end: bool) -> bool:
        """Between a call's arguments and the end of its object."""
        met = self._read_to(0)
        if met == MORE and is_end:
            self._read = len(self._rest)
        return self._leave(met, self._behind)

    @abc.abstractmethod
    def _behind(self, is_end: bool) -> bool:
        """Behind a call."""

    def _read_to(self, depth: int) -> str:
        """Read on until only `depth` brackets are open; what was met last."""
        while True:
            self._read, met = self._extent.advance(self._rest, self._read)
            if met in (MORE, NONSENSE) or self._extent.depth == depth:
                return met

    def _leave(self, met: str, then: Callable[[bool], bool]) -> bool:
        """What was read is done with; `then` is next, if it was read to its end."""
        self._rest = self._rest[self._read :]
        self._read = 0
        if met != MORE:
            self._step = self._content if met == NONSENSE else then
        return met != MORE


def before_part(text: str, marker: str) -> int:
    """Where `text` ends, a beginning of `marker` at its end left out."""
    longest = min(len(marker) - 1, len(text))
    return len(text) - next(n for n in range(longest, -1, -1) if text.endswith(marker[:n]))


def _without_space(text: str, end: int) -> int:
    start = end
    while start > 0 and end - start < SPACE_MAX and text[start - 1].isspace():
        start -= 1
    return start
