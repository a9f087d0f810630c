"""The one place that reads the text of an answer: thoughts, content and calls. Pure.

Text goes in as it comes, deltas come out as soon as they are decided. Where the text was cut makes
no difference, so an answer that another node went on with reads like an unbroken one. Any text is
read: what looks like a call and is none comes out as content, every character of it. A call begins
to come out when its function is known, so that long arguments can be followed; if they turn out to
be no JSON, the call ends there and what follows is content.

What marks thoughts and calls is not passed on, nor is the space behind it and before it (of that,
the last SPACE_MAX characters), nor what a call's object has beside name and arguments.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Collection
from typing import Final

from runtimes.json_extent import MORE, NONSENSE, JsonExtent
from runtimes.reply_form import CALL_MARKERS, THOUGHTS_BEGIN, THOUGHTS_END, ReplyForm

HELD_MAX: Final = 16 * 1024
"""Characters of a call whose function is not known: more is content."""
HEAD_MAX: Final = 512
"""Characters before a call's arguments, where they are to be followed as they come; and between
a marker and its call."""
SPACE_MAX: Final = 64
"""Of the space before a marker, so much is left out."""
PIECE_MAX: Final = 4 * 1024
"""Characters that are worked on at a time: every step copies what is left of them."""

_OPENERS: Final = {
    "hermes": re.compile(r"\s*"),
    "llama3": re.compile(r"\s*"),
    "mistral": re.compile(r"\s*\[\s*"),
    "mistral_args": re.compile(
        r"\s*(?P<name>[A-Za-z0-9_.-]{1,128})(\[CALL_ID\]\w{1,64})?(\[ARGS\])?\s*"
    ),
}
"""What stands between a call's marker and its first brace."""
_SEPARATORS: Final = {
    "llama3": re.compile(rf";?\s{{0,{SPACE_MAX}}}"),
    "mistral": re.compile(rf",\s{{0,{SPACE_MAX}}}"),
}
"""What stands between a call and a next one without a marker."""
_ENDS: Final = {"hermes": "</tool_call>", "mistral": "]"}
_ARGUMENTS_FOLLOW = re.compile(r'"(arguments|parameters)"\s*:\s*\Z')


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Some of what is said to the reader."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Thoughts:
    """Some of what the model thought before."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins; numbers count from 0."""

    index: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class CallArguments:
    """Some of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = Content | Thoughts | CallBegin | CallArguments


class ReplyParser:
    """Reads one answer."""

    def __init__(
        self, form: ReplyForm, names: Collection[str] = (), calls_max: int | None = None
    ) -> None:
        """`names`: the functions that can be called; everything else is content. `calls_max`: so
        many calls at most, what comes behind them is content.
        """
        self._family = form.calls if form.calls in CALL_MARKERS else ""
        self._names = frozenset(names)
        self._calls_max = calls_max
        self._calls = 0
        self._rest = ""
        """What is not decided yet."""
        self._deltas: list[Delta] = []
        self._skips_space = form.thoughts == "open"
        self._may_be_bare = self._family == "llama3"
        """A call may begin without a marker: nothing has been said yet."""
        self._at = 0
        """In the rest: where the marker ends, the object begins."""
        self._read = 0
        """In the rest: as far as the extent has read."""
        self._extent = JsonExtent()
        self._depth_around = 0
        """Brackets around the arguments."""
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
        if not self._family or self._calls == self._calls_max:
            self._drop_space()
            self._say_content(len(self._rest))
            return False
        if self._may_be_bare:
            self._drop_space()
            text = self._rest.lstrip()
            self._at = len(self._rest) - len(text)
            if not text and self._at <= SPACE_MAX and not is_end:
                return False
            self._may_be_bare = False
            if text.startswith("{") and self._at <= SPACE_MAX:
                return self._begin_object(self._at)
        marker = CALL_MARKERS[self._family][0]
        if not self._say_up_to(marker, Content, is_end):
            return False
        self._at = self._rest.index(marker) + len(marker)
        self._step = self._head
        return True

    def _head(self, is_end: bool) -> bool:
        """Between a marker and its call."""
        brace = self._rest.find("{", self._at, self._at + HEAD_MAX)
        if brace < 0 and len(self._rest) < self._at + HEAD_MAX and not is_end:
            return False
        opener = brace >= 0 and _OPENERS[self._family].fullmatch(self._rest, self._at, brace)
        if not opener:
            return self._is_no_call(self._at)
        name = opener.groupdict().get("name")
        if name is None:
            return self._begin_object(brace)
        if name not in self._names:
            return self._is_no_call(self._at)
        self._extent = JsonExtent()
        self._begin_arguments(name, brace, read=0)
        return True

    def _object(self, is_end: bool) -> bool:
        """Inside of what may be a call, until its function is known."""
        end = self._at + HELD_MAX
        text = self._rest[:end]
        while True:
            self._read, met = self._extent.advance(text, self._read)
            if met == NONSENSE:
                return self._is_no_call(self._read)
            if met == MORE:
                return (len(text) == end or is_end) and self._is_no_call(len(text))
            if met == "{" and self._extent.depth == 2:
                brace = self._read - 1
                name = self._name_before(text[self._at : brace])
                if name is not None:
                    self._depth_around = 1
                    self._begin_arguments(name, brace, read=1)
                    return True
            if self._extent.depth == 0:
                call = self._call_of(text[self._at : self._read])
                if call is None:
                    return self._is_no_call(self._read)
                self._begin_call(call[0])
                self._deltas.append(CallArguments(self._calls - 1, call[1]))
                self._rest = self._rest[self._read :]
                self._step = self._behind
                return True

    def _arguments(self, is_end: bool) -> bool:
        met = self._read_to(self._depth_around)
        if met == MORE and is_end:
            self._read = len(self._rest)
        self._say(CallArguments(self._calls - 1, self._rest[: self._read]))
        then = self._remainder if self._depth_around else self._behind
        return self._leave(met, then)

    def _remainder(self, is_end: bool) -> bool:
        """Between a call's arguments and the end of its object."""
        met = self._read_to(0)
        if met == MORE and is_end:
            self._read = len(self._rest)
        return self._leave(met, self._behind)

    def _behind(self, is_end: bool) -> bool:
        """Behind a call: its end marker, or another one."""
        self._rest = rest = self._rest.lstrip()
        end = _ENDS.get(self._family, "")
        separator = _SEPARATORS.get(self._family)
        found = separator.match(rest) if separator else None
        if end and rest.startswith(end):
            self._rest = rest.removeprefix(end)
            self._skips_space = True
            self._step = self._content
            return True
        is_undecided = not rest or end.startswith(rest) or (found and found.end() == len(rest))
        if is_undecided and not is_end:
            return False
        if found and rest.startswith("{", found.end()) and self._calls != self._calls_max:
            return self._begin_object(found.end())
        self._step = self._content
        return True

    # ---- what steps do ----

    def _begin_object(self, brace: int) -> bool:
        self._at = self._read = brace
        self._extent = JsonExtent()
        self._step = self._object
        return True

    def _begin_arguments(self, name: str, brace: int, *, read: int) -> None:
        self._begin_call(name)
        self._rest = self._rest[brace:]
        self._read = read
        self._step = self._arguments

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

    def _begin_call(self, name: str) -> None:
        self._deltas.append(CallBegin(self._calls, name))
        self._calls += 1

    def _is_no_call(self, end: int) -> bool:
        self._say_content(end)
        self._step = self._content
        return True

    def _name_before(self, head: str) -> str | None:
        """The function in the members before its arguments, if it is there."""
        if len(head) > HEAD_MAX or not _ARGUMENTS_FOLLOW.search(head):
            return None
        try:
            name = json.loads(head + "0}").get("name")
        except ValueError:
            return None
        return name if isinstance(name, str) and name in self._names else None

    def _call_of(self, text: str) -> tuple[str, str] | None:
        """Name and arguments of a whole call; None for what is none."""
        try:
            members = json.loads(text)
            name = members.get("name")
            arguments = members.get("arguments", members.get("parameters"))
            if isinstance(arguments, str):  # some write JSON into a string
                arguments = json.loads(arguments)
            arguments = json.dumps({} if arguments is None else arguments, allow_nan=False)
        except (ValueError, RecursionError):
            return None
        is_call = isinstance(name, str) and name in self._names and arguments.startswith("{")
        return (name, arguments) if is_call else None

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
            end = _without_space(self._rest, at if at >= 0 else _before_part(self._rest, marker))
        self._say(kind(self._rest[:end]))
        self._rest = self._rest[end:]
        return at >= 0

    def _say_content(self, end: int) -> None:
        self._say(Content(self._rest[:end]))
        self._rest = self._rest[end:]

    def _say(self, delta: Content | Thoughts | CallArguments) -> None:
        if delta.text:
            self._deltas.append(delta)


def calls_in_prompt(prompt: str, name: str) -> str:
    """The family in whose form a call of `name` stands in a prompt; empty when it is none."""
    for family in CALL_MARKERS:
        # A Llama 3 writes no marker: the call is all of its turn.
        for turn in prompt.split("<|end_header_id|>"):
            parser = ReplyParser(ReplyForm(family), (name,))
            parser.push(turn)
            if parser.has_calls:
                return family
    return ""


def _before_part(text: str, marker: str) -> int:
    """Where `text` ends, a beginning of `marker` at its end left out."""
    longest = min(len(marker) - 1, len(text))
    return len(text) - next(n for n in range(longest, -1, -1) if text.endswith(marker[:n]))


def _without_space(text: str, end: int) -> int:
    start = end
    while start > 0 and end - start < SPACE_MAX and text[start - 1].isspace():
        start -= 1
    return start
