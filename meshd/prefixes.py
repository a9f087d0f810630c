"""The one place for what the beginnings of prompts are called, and which of them lie in this node's
models. Pure.

A prompt is a row of bytes: the system's words, tools and messages in the order in which most
templates write them, or the plain text. Its first 1, 2, 4, 8, ... blocks
have a hash each, of all bytes from the front on, as vLLM names its blocks. Nodes tell the hashes of
prompts that they have answered lately; who chooses a node hashes the prompt in the same way, and
looks for the longest beginning that a node tells of. So a long instruction, or a document, is found
where it lies, whoever has asked about it. Resolution is a factor of two; a hash has 32 bits, and an
equal one by chance sends a request to a node that is as good as others.

Hashes tell who is a member, and can guess the first 1,024 bytes of a prompt, that it was asked.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Final

from runtimes.base import GenerateRequest, Request
from runtimes.embedding import EmbedRequest

BLOCK_BYTES: Final = 1_024
BLOCK_TOKENS: Final = 256
"""Of English text, roughly."""
HASH_BYTES: Final = 4
HASHES_MAX: Final = 48
"""Of one model, that are told."""
PROMPTS_MAX: Final = 64
"""Of one model, that are remembered."""
FOUND_AGAIN: Final = 4
"""Where less than such a part of what was told is found again, it is not there: a block may have
fewer tokens than most, and the last ones are always computed anew."""
_BETWEEN: Final = b"\x1e"


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt."""

    hash: int
    tokens: int
    """About so many."""


def prefixes_of(request: Request) -> tuple[Prefix, ...]:
    """The beginnings of a request's prompt, the shortest first; none of a short prompt."""
    if isinstance(request, EmbedRequest):
        return ()
    found: list[Prefix] = []
    digest = hashlib.blake2b(digest_size=HASH_BYTES, person=b"meshd prefix")
    size, boundary = 0, BLOCK_BYTES
    for data in _pieces(request):
        start = 0
        while size + len(data) - start >= boundary:
            end = start + boundary - size
            digest.update(data[start:end])
            start, size = end, boundary
            whole = int.from_bytes(digest.copy().digest(), "big")
            found.append(Prefix(whole, size // BLOCK_BYTES * BLOCK_TOKENS))
            boundary *= 2
        digest.update(data[start:])
        size += len(data) - start
    return tuple(found)


def _pieces(request: GenerateRequest) -> Iterator[bytes]:
    """A prompt's bytes, in an order in which what comes later changes nothing before."""
    if request.messages is None:
        yield _bytes(request.prompt or "")
        return
    images, has_told_tools = list(request.images), False
    for number, message in enumerate(request.messages):
        if message.role != "system" and not has_told_tools:
            has_told_tools = True
            for tool in request.tools:
                yield _BETWEEN.join(map(_bytes, (tool.name, tool.description, tool.parameters)))
        while images and images[0].message <= number:
            yield hashlib.blake2b(images.pop(0).data, digest_size=16).digest()
        for text in message.texts():
            yield _BETWEEN + _bytes(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class HeldPrefixes:
    """What lies in one node's models, as far as can be known: the prompts answered last, as many
    as there is room for.
    """

    def __init__(self) -> None:
        self._prompts: dict[str, dict[tuple[Prefix, ...], int]] = {}
        """By model, the newest last, with their tokens."""

    def note(self, request: Request, tokens: int, cached_tokens: int, room_tokens: int) -> None:
        """A prompt of so many tokens was answered, of which so many were known, by a model that
        keeps at most `room_tokens`.
        """
        if not 0 < tokens <= room_tokens or not (prefixes := prefixes_of(request)):
            return
        prompts = self._prompts.setdefault(request.model, {})
        known = frozenset(each.hash for of_one in prompts for each in of_one)
        if cached_tokens < tokens_held(prefixes, known) // FOUND_AGAIN:
            prompts.clear()  # what was taken to lie there does not, or such a model cannot use it
        for shorter in [each for each in prompts if each == prefixes[: len(each)]]:
            del prompts[shorter]
        prompts[prefixes] = tokens
        while sum(prompts.values()) > room_tokens or len(prompts) > PROMPTS_MAX:
            del prompts[next(iter(prompts))]

    def forget(self, model: str) -> None:
        """It is not in memory any more."""
        self._prompts.pop(model, None)

    @property
    def models(self) -> list[str]:
        """Those that have anything."""
        return list(self._prompts)

    def hashes(self, model: str) -> tuple[int, ...]:
        """Of one model, those of the newest prompts; in order, so that equal ones are equal."""
        found: dict[int, None] = {}
        for prefixes in reversed(self._prompts.get(model, {})):
            for prefix in prefixes:
                if len(found) < HASHES_MAX:
                    found[prefix.hash] = None
        return tuple(sorted(found))


def tokens_held(prefixes: tuple[Prefix, ...], hashes: frozenset[int]) -> int:
    """How much of a prompt lies where these hashes are told, in tokens."""
    return next((each.tokens for each in reversed(prefixes) if each.hash in hashes), 0)
