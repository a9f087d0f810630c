"""The one place that decides what is speculated on: for whom the draft proposes how many tokens."""

from collections.abc import Iterable, Mapping

from runtimes.llama.engine.draft_length import DraftLength
from runtimes.llama.engine.drafter import Drafter, Wish
from runtimes.llama.engine.kv_memory import KvMemory
from runtimes.llama.engine.sequence import Sequence


class Speculation:
    """What is tried of the tokens that a draft proposes, and what comes of it."""

    def __init__(self, drafter: Drafter | None, tokens_max: int) -> None:
        """`tokens_max`: proposed tokens in one step. Without a drafter there are none."""
        self._drafter = drafter
        self._tokens_max = tokens_max
        self._lengths: dict[int, DraftLength] = {}
        """By request."""
        self.proposed = self.accepted = 0
        """Tokens that were tried; those of them that saved a decode."""

    @property
    def draft_memory(self) -> KvMemory | None:
        """The draft's KV cache."""
        return None if self._drafter is None else self._drafter.memory

    def wishes(self, ready: Iterable[Sequence], allowed: Mapping[int, int]) -> list[Wish]:
        """What is to be proposed for those that generate: the more they are, the less for each.
        Nothing for those with images, which the draft does not see.

        `allowed`: how many tokens each request may get in this step.
        """
        if self._drafter is None:
            return []
        streams = [each for each in ready if each.pending == 1 and not each.images]
        share = self._tokens_max // max(1, len(streams))
        wishes = []
        for each in streams:
            length = self._lengths.setdefault(each.request, DraftLength(self._tokens_max))
            left = min(each.tokens_max - each.completion_tokens, allowed[each.request])
            wishes.append(Wish(each.request, each.tokens, min(share, length.tokens, left - 1)))
        return [wish for wish in wishes if wish.count > 0]

    def propose(self, wishes: list[Wish]) -> dict[int, list[int]]:
        """The tokens that the draft proposes, by request; for some it may have none."""
        if self._drafter is None or not wishes:
            return {}
        return self._drafter.propose(wishes)

    def note(self, sequence: Sequence, *, proposed: int, accepted: int) -> None:
        """A step of one that generates is over."""
        self.proposed += proposed
        self.accepted += accepted
        length = self._lengths.get(sequence.request)
        if length is not None:
            length.note(proposed, accepted)

    def release(self, request: int, *, keep: bool) -> None:
        """The request is over, or waits for room. `keep`: see `Drafter.release`."""
        self._lengths.pop(request, None)
        if self._drafter is not None:
            self._drafter.release(request, keep=keep)
