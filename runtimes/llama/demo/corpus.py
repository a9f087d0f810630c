"""The one place that turns `topics.txt` and `offtopic.txt` into questions with their answers.

A line of these files is a pattern: `{a|b}` is a choice, `[a]` may be left out, both nest, and
`<word>` stands for one of the words of its `@word` line. A pattern is expanded at random, then
dressed as people write: with an opener, without a question mark, in lower case, with a word
missing or mistyped. Everything is drawn from one seed: the same seed gives the same questions.
"""

import dataclasses
import functools
import json
import pathlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from runtimes.llama.demo import wording

FOLDER = pathlib.Path(__file__).parent
HELDOUT = "heldout.json"
"""By the author of the topics."""
STRANGERS = "strangers.json"
"""By somebody who never saw the topics; for the final test alone."""
OFFTOPIC = "offtopic"
OFFTOPIC_ANSWER = (
    "That is beyond me: I am a tiny demo model and only know a little about meshd. "
    "For anything else start a real model: meshd up --model FILE.gguf"
)
OFFTOPIC_SHARE = 0.22
"""Of all questions; each topic has an equal part of the rest."""
KEPT_SHARE = 0.4
"""How often what may be left out is kept."""
LONG_SHARE = 0.05
LONG_PARTS = 7
"""Some off-topic questions are long, as pasted texts are: so many more sentences follow."""
ALIKE = 0.8
"""Share of common words from which a pattern's expansion counts as a held-out question."""

_CHOICE = re.compile(r"\{([^{}\[\]]*)\}|\[([^{}\[\]]*)\]")
_WORD = re.compile(r"<([a-z]+)>")
_REFERENCE_DEPTH_MAX = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One answer and the patterns of the questions that it answers."""

    name: str
    answer: str
    patterns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with the answer that is right."""

    topic: str
    question: str
    answer: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A question that training never sees, and what its answer must and must not contain."""

    question: str
    require: tuple[str, ...]
    """Patterns that are all found in a right answer, case ignored."""
    forbid: tuple[str, ...]
    """Patterns of which none is."""
    is_offtopic: bool

    def accepts(self, answer: str) -> bool:
        """Whether `answer` is right by the rule."""

        def found(pattern: str) -> bool:
            return re.search(pattern, answer, re.IGNORECASE) is not None

        return all(map(found, self.require)) and not any(map(found, self.forbid))


class Corpus:
    """All topics, and the questions that can be drawn from them."""

    def __init__(
        self, topics: Sequence[Topic], words: Mapping[str, Sequence[str]], avoid: Sequence[str]
    ) -> None:
        """No question drawn is one of `avoid`, nor has nearly the same words."""
        self.topics = tuple(topics)
        self._words = words
        self._avoid = [word_set(question) for question in avoid]

    @property
    def answers(self) -> dict[str, str]:
        """Each topic's answer by the topic's name."""
        return {topic.name: topic.answer for topic in self.topics}

    def examples(self, seed: int) -> Iterator[Example]:
        """Endless examples, the same for the same seed."""
        rng = random.Random(seed)  # noqa: S311  # nothing here is secret
        offtopic = [topic for topic in self.topics if topic.name == OFFTOPIC]
        others = [topic for topic in self.topics if topic.name != OFFTOPIC]
        while True:
            pool = offtopic if rng.random() < OFFTOPIC_SHARE else others
            topic = rng.choice(pool)
            core = self.expand(rng.choice(topic.patterns), rng)
            if topic.name == OFFTOPIC and rng.random() < LONG_SHARE:
                more = (self.expand(rng.choice(topic.patterns), rng) for _ in range(LONG_PARTS))
                core = ". ".join((core, *more))
            if self.is_avoided(core):
                continue
            question = wording.dress(core, rng)
            if self.is_avoided(question):
                continue
            yield Example(topic=topic.name, question=question, answer=topic.answer)

    def plain_questions(self, topic: Topic, seed: int) -> list[str]:
        """One undressed question from each of the topic's patterns."""
        rng = random.Random(seed)  # noqa: S311  # nothing here is secret
        found = [self.expand(pattern, rng) for pattern in topic.patterns]
        return [question for question in found if not self.is_avoided(question)]

    def is_avoided(self, question: str) -> bool:
        """Whether the question has nearly the same words as one that must not occur."""
        words = word_set(question)
        return any(len(words & avoided) >= ALIKE * len(words | avoided) for avoided in self._avoid)

    def expand(self, pattern: str, rng: random.Random) -> str:
        """Replace each `<word>`, `{a|b}` and `[a]` in the pattern by one of its meanings."""
        text = pattern
        for _ in range(_REFERENCE_DEPTH_MAX):
            text = _WORD.sub(lambda found: str(rng.choice(self._words[found[1]])), text)
            while _CHOICE.search(text):
                text = _CHOICE.sub(lambda found: _chosen(found, rng), text)
            if not _WORD.search(text):
                break
        return " ".join(text.split())


def _chosen(found: re.Match[str], rng: random.Random) -> str:
    meanings: str | None = found[1]
    if meanings is None:
        meanings = str(found[2]) if rng.random() < KEPT_SHARE else ""
    return rng.choice(meanings.split("|"))


def word_set(question: str) -> frozenset[str]:
    """The words of a question, without case and punctuation."""
    return frozenset(re.findall(r"[\w-]+", question.lower()))


@functools.cache
def load() -> Corpus:
    """The corpus of the files beside this one."""
    words: dict[str, Sequence[str]] = {}
    topics = read_topics((FOLDER / "topics.txt").read_text(encoding="utf-8"), words)
    text = f"# {OFFTOPIC}\n= {OFFTOPIC_ANSWER}\n"
    text += (FOLDER / "offtopic.txt").read_text(encoding="utf-8")
    topics += read_topics(text, words)
    return Corpus(topics, words, [question.question for question in load_heldout()])


def read_topics(text: str, words: dict[str, Sequence[str]]) -> list[Topic]:
    """The topics of a file; its `@word` lines are added to `words`."""
    topics: list[Topic] = []
    name, answer = "", ""
    patterns: list[str] = []
    for line in [*text.splitlines(), "# "]:
        kind, rest = line[:1], line[1:].strip()
        if not line or line.startswith("//"):
            continue
        if kind == "@":
            word, _, meanings = rest.partition(" ")
            words[word] = tuple(meanings.split("|"))
        elif kind == "=":
            answer = rest
        elif kind == "#":
            if name:
                topics.append(Topic(name=name, answer=answer, patterns=tuple(patterns)))
            name, answer, patterns = rest, "", []
        else:
            patterns.append(line)
    return topics


@functools.cache
def load_heldout(file: str = HELDOUT) -> tuple[HeldOut, ...]:
    """The questions of `heldout.json` or its like; those about meshd first."""
    content = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    everywhere = tuple(content["forbid_everywhere"])
    return tuple(
        HeldOut(
            question=row["question"],
            require=tuple(row["require"]),
            forbid=tuple(row.get("forbid", ())) + (() if is_offtopic else everywhere),
            is_offtopic=is_offtopic,
        )
        for is_offtopic in (False, True)
        for row in content["offtopic" if is_offtopic else "questions"]
    )
