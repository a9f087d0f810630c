"""The one place that makes one question look as different people would write it."""

import random
import re

OPENERS = (
    "please", "hey,", "hi,", "hello,", "hello!", "so", "so,", "ok,", "okay, and", "and", "um,",
    "well,", "could you tell me", "can you tell me", "would you tell me", "tell me", "tell me,",
    "I would like to know", "I'd like to know", "I want to know", "I wonder", "I am wondering",
    "do you know", "do you happen to know", "quick question:", "question:", "one question:",
    "excuse me,", "sorry,", "now", "then", "but", "also,", "again:", "good morning,", "hi there,",
    "just asking,", "not sure, but", "my question is", "another thing:", "please explain:",
    "can you help me:", "I was wondering,", "next:", "actually,", "honestly,", "by the way,",
)  # fmt: skip
CLOSERS = (
    "please", "pls", "thanks", "thank you", "exactly", "actually", "really", "here", "now",
    "right now", "then", "again", "today", "for me", "at all", "anyway", "if I may ask",
    "I wonder", "do you know", "any idea", "can you help", "I don't know", "in detail", "quickly",
)  # fmt: skip
PREFACES = (
    "I am new here.", "I have two PCs at home.", "I am on Linux.", "I just installed it.",
    "I use a Mac.", "I read the README.", "A friend showed me this.", "I am no expert.",
    "It is my first try.", "I am a teacher.", "We are a small lab.", "I run it at home.",
    "I have a question.", "I hope you can help.", "I am a bit lost.", "Sorry to bother you.",
    "This is nice.", "I have a laptop and a big PC.", "I tried a lot.", "It is late here.",
    "I could not find it.", "Here is what I want.", "My boss wants to know.", "I do not get it.",
)  # fmt: skip
ENDS = ("?", "?", "?", "?", "", "", "", "", ".", "!", "??", "...", " ?")
SYNONYMS = {
    "show": ("display", "list", "see", "view", "tell me"),
    "start": ("launch", "run", "begin", "boot", "start up", "get going"),
    "stop": ("quit", "end", "shut down", "halt", "turn off"),
    "use": ("work with", "run", "employ", "take"),
    "make": ("create", "produce", "build", "get"),
    "get": ("obtain", "receive", "have"),
    "machine": ("computer", "PC", "box", "laptop", "device", "server"),
    "machines": ("computers", "PCs", "boxes", "laptops", "devices"),
    "computer": ("machine", "PC", "box", "laptop"),
    "computers": ("machines", "PCs", "boxes"),
    "node": ("machine", "member", "peer", "computer"),
    "nodes": ("machines", "members", "peers", "computers"),
    "mesh": ("network", "cluster", "group"),
    "model": ("LLM", "AI", "language model"),
    "models": ("LLMs", "AIs", "language models"),
    "question": ("request", "prompt", "query"),
    "app": ("program", "application", "client", "script"),
    "error": ("problem", "failure", "message", "trouble"),
    "token": ("invite token", "code", "key"),
    "want": ("would like", "wish", "need", "have"),
    "need": ("require", "want", "have to have"),
    "change": ("alter", "switch", "modify", "set"),
    "find": ("see", "locate", "look up"),
    "fast": ("quick", "speedy", "rapid"),
    "slow": ("sluggish", "laggy"),
    "big": ("large", "huge"),
    "small": ("tiny", "little"),
    "mean": ("signify", "stand for", "say"),
    "explain": ("describe", "tell me about", "clarify"),
    "can": ("could", "may"),
    "does": ("will", "would"),
    "my": ("the", "our", "this", "your"),
    "a": ("the", "some", "one", "my"),
    "the": ("my", "this", "that", "a", "our"),
    "I": ("we", "one", "you"),
    "what": ("which", "wat"),
    "meshd": ("it", "this", "the program", "this thing", "meshed", "MeshD"),
    "it": ("meshd", "this", "the thing", "that"),
    "work": ("function", "run"),
    "file": ("document", "thing"),
    "folder": ("directory", "place", "path"),
    "data": ("stuff", "things", "files"),
    "other": ("second", "another", "remaining"),
    "others": ("other ones", "other machines", "rest"),
    "several": ("many", "multiple", "some"),
    "is": ("'s", "was"),
    "you": ("u", "ya"),
    "please": ("pls", "plz"),
    "with": ("using", "by", "via"),
    "dies": ("crashes", "fails", "goes down", "breaks", "drops out"),
    "secure": ("safe", "protected"),
    "job": ("task", "piece of work"),
    "jobs": ("tasks",),
    "result": ("output", "outcome"),
    "submit": ("send", "hand in", "start"),
    "cancel": ("stop", "abort", "call off"),
    "join": ("enter", "get into", "become part of"),
    "run": ("execute", "start", "use"),
    "ask": ("query", "question"),
    "answer": ("reply", "response"),
    "answers": ("replies", "responses"),
    "happens": ("occurs", "goes on"),
    "command": ("instruction", "line"),
    "download": ("fetch", "get", "pull"),
    "install": ("set up", "put on"),
    "connect": ("link", "hook up", "attach"),
    "another": ("a second", "a different", "one more"),
    "crashes": ("dies", "breaks", "fails"),
    "why": ("how come", "for what reason"),
    "remove": ("delete", "take out"),
    "allowed": ("permitted", "okay"),
}
KEYS = {
    key: near
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for key, near in zip(row, row[1:] + row[-2], strict=True)
}
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the is are do does i to of in on it my me please can how what which there for with "
        "and this that you be have has one would could should",
    )
)


def dress(core: str, rng: random.Random) -> str:
    """`core` as somebody might type it."""
    words = core.split()
    words = _exchanged(words, rng)
    if len(words) > 3 and rng.random() < 0.25:
        words = _dropped(words, rng)
    if len(words) > 3 and rng.random() < 0.04:
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
    text = " ".join(words)
    if rng.random() < 0.25:
        text = f"{rng.choice(OPENERS)} {text}"
    if rng.random() < 0.10:
        text = f"{text}{rng.choice((' ', ', '))}{rng.choice(CLOSERS)}"
    text += rng.choice(ENDS)
    if rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.06:
        preface = rng.choice(PREFACES)
        text = f"{preface} {text}" if rng.random() < 0.8 else f"{text} {preface}"
    if rng.random() < 0.18:
        text = _mistyped(text, rng)
    return _cased(text, rng)


def _exchanged(words: list[str], rng: random.Random) -> list[str]:
    """Some words by others of like meaning."""
    return [
        rng.choice(SYNONYMS[word]) if word in SYNONYMS and rng.random() < 0.14 else word
        for word in words
    ]


def _dropped(words: list[str], rng: random.Random) -> list[str]:
    """Without one or two words, mostly those that say little."""
    kept = list(words)
    for _ in range(rng.choice((1, 1, 2))):
        empty = [at for at, word in enumerate(kept) if word.lower() in _EMPTY_WORDS]
        if empty and rng.random() < 0.85:
            del kept[rng.choice(empty)]
        elif len(kept) > 5:
            del kept[rng.randrange(len(kept))]
    return kept or words


def _mistyped(text: str, rng: random.Random) -> str:
    """With one or two slips of the finger in words of at least four letters."""
    for _ in range(rng.choice((1, 1, 2))):
        spots = [found.span() for found in re.finditer(r"[A-Za-z]{4,}", text)]
        if not spots:
            return text
        start, end = rng.choice(spots)
        at = rng.randrange(start + 1, end - 1)
        slip = rng.randrange(4)
        if slip == 0:
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        elif slip == 1:
            text = text[:at] + text[at + 1 :]
        elif slip == 2:
            text = text[:at] + text[at] + text[at:]
        else:
            text = text[:at] + KEYS.get(text[at].lower(), "e") + text[at + 1 :]
    return text


def _cased(text: str, rng: random.Random) -> str:
    drawn = rng.random()
    if drawn < 0.35:
        return text.lower()
    if drawn < 0.37:
        return text.upper()
    return text.replace("'", "") if drawn < 0.42 else text
